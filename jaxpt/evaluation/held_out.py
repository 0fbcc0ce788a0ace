"""Held-out documents as batches: tokenized and packed so that every token but the first is predicted once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpt.data import records
from jaxpt.data.caps import CAPS, Caps
from jaxpt.data.packing import Document, best_fit
from jaxpt.data.text_files import read_documents
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import Tokenizer


@dataclass(frozen=True)
class HeldOut:
    """A set of documents as batches `[N, B, S]` of tokens, targets, segment ids, positions and loss weights."""

    batches: Mapping[str, np.ndarray]
    bytes: int
    documents: int


def held_out(
    texts: Iterable[str], tokenizer: Tokenizer, sequence_length: int, batch_size: int, where: str = "documents"
) -> HeldOut:
    """Tokenizes and packs documents for measuring.

    A document begins with BOS (EOS where there is none), so that its first token is predicted too; one longer than a
    row is cut into windows, each beginning with the last token of the one before. EOS is not predicted.

    Args:
        texts: the documents.
        tokenizer: the model's.
        sequence_length: S, of at least 2.
        batch_size: B; the last batch is filled up with rows that weigh nothing.
        where: what names the set, for the error message.

    Raises:
        JaxptError: no text at all.
    """
    texts = [t for t in texts if t]
    if not texts:
        raise JaxptError(f"{where}: there is no text to measure")
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start is None:
        raise JaxptError("bits per byte: the tokenizer has neither BOS nor EOS to begin a document with")
    windows: list[Document] = []
    for ids in tokenizer.encode_batch(texts):
        whole = np.concatenate([[start], ids])
        for i in range(0, len(whole) - 1, sequence_length - 1):
            piece = whole[i : i + sequence_length]
            windows.append(Document(piece, np.ones(len(piece), bool), len(windows)))
    rows = [records.encode(row, "uint32") for row, _ in best_fit(windows, sequence_length, 0)]
    arrays = records.decode(rows, sequence_length, "uint32")
    short = -len(rows) % batch_size
    batches = {
        k: np.concatenate([a, np.zeros((short, *a.shape[1:]), a.dtype)]).reshape(-1, batch_size, sequence_length)
        for k, a in ((key, np.asarray(value)) for key, value in arrays.items())
    }
    return HeldOut(batches, sum(len(t.encode("utf-8", "surrogatepass")) for t in texts), len(texts))


def read_texts(file: str, limit: int | None = None, caps: Caps = CAPS) -> Sequence[str]:
    """Returns the text of the first `limit` documents of a JSONL file (None: of all).

    Raises:
        JaxptError: a file that is missing, or a document that is broken or beyond `caps`.
    """
    out: list[str] = []
    for document in read_documents(file, caps=caps):
        if limit is not None and len(out) >= limit:
            break
        text = document["text"]
        if not isinstance(text, str | None):
            raise JaxptError(f"{file}: the field 'text' of a document is a {type(text).__name__}, not text")
        out.append(text or "")
    return out
