"""Documents to a packed source: read, tokenize, pack, write, in one pass."""

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jaxpt.config.choice import option
from jaxpt.data.caps import CAPS, Caps
from jaxpt.data.chat import templates_of, tokenize_chats
from jaxpt.data.documents import Fields
from jaxpt.data.left_out import LIMIT, Reading
from jaxpt.data.origins import Origin, open_origin
from jaxpt.data.packed import PackedSource, PackedWriter
from jaxpt.data.packing import PACKERS, Document
from jaxpt.data.tokenize import ALL, EOS_TOKEN, Selection, Tokenized, tokenize
from jaxpt.data.tokenized import TokenizedDocuments
from jaxpt.errors import JaxptError, nearest
from jaxpt.tokenizers.chat import DATE
from jaxpt.tokenizers.interface import Tokenizer

ReportDocuments = Callable[[int, int], object]  # (documents, tokens) done since the last call


@dataclass(frozen=True)
class Packing:
    """How documents become rows: all that decides a packed source besides its text, its tokenizer and its length.

    `kind` is "text", or "chat" for conversations of which only the assistant's turns are targets. `field` is where a
    document's text or messages are (None: `text`, `messages`). `packer` is "best_fit" (documents are cut only where
    longer than a row) or "concat" (no padding). `bos` and `eos` begin and end each text (None: only `eos`). `template`
    writes a chat: one that comes with jaxpt, a `.jinja` file, or None for the tokenizer's; it alone writes a chat's
    special tokens. `eos_token` ends each text instead of the tokenizer's own EOS: the text of a token, or of several
    one after the other. `control_tokens` says what becomes of text that spells such a token: "text" (a page cannot
    end a document inside a row), or "tokens". `date` is what a template's `strftime_now` says, in ISO form. Records
    beyond `caps` are left out, like those that are none; more than a share of `quarantine_limit` of them is an error.
    `selection` says which documents are taken.
    """

    kind: Literal["text", "chat"] = option("text", "chat: conversations, only the assistant's turns are targets")
    field: str | None = option(None, "where a document's text or messages are; None: text, messages")
    packer: str = option("best_fit", "best_fit (only documents longer than a row are cut) or concat (no padding)")
    bos: bool | None = option(None, "begin each text with it; None: no")
    eos: bool | None = option(None, "end each text with it; None: yes")
    eos_token: str | None = option(None, EOS_TOKEN)
    template: str | None = option(None, "of chats: one of jaxpt's, a .jinja file, or None for the tokenizer's")
    control_tokens: Literal["text", "tokens"] = option(
        "text", "what text that spells a control token (</s>) becomes: text, or tokens, which end a document"
    )
    date: str = option(DATE, "of chats: what strftime_now says in a template, YYYY-MM-DD")
    largest_record: int = option(CAPS.largest_record, "bytes; a longer document is put into quarantine.jsonl")
    largest_page: int = option(CAPS.largest_page, "bytes of a page of Parquet; with a larger one its rows are too")
    deepest_json: int = option(CAPS.deepest_json, "lists and objects in each other; a deeper document is too")
    quarantine_limit: float = option(LIMIT, "share of the records in quarantine.jsonl above which packing fails")
    selection: Selection = option(ALL, "which documents are taken: all, the held-out share, or the rest")

    def __post_init__(self) -> None:
        if self.kind == "chat" and (self.bos is not None or self.eos is not None):
            raise JaxptError("bos and eos are of kind=text; a chat's special tokens are written by its template")
        if self.kind == "chat" and self.eos_token is not None:
            raise JaxptError(f"eos_token={self.eos_token} is of kind=text; a chat's template writes its end tokens")
        if self.kind == "text" and self.template is not None:
            raise JaxptError(f"template={self.template} is of kind=chat; set kind=chat")
        if self.eos is False and self.eos_token is not None:
            raise JaxptError(f"eos_token={self.eos_token} and eos=False exclude each other; leave one out")
        if not 0 <= self.quarantine_limit <= 1:
            raise JaxptError(f"quarantine_limit={self.quarantine_limit} must be a share from 0 to 1")
        self.caps  # noqa: B018  what cannot be is refused before anything is read
        if self.control_tokens not in ("text", "tokens"):
            hint = nearest(self.control_tokens, ("text", "tokens"))
            raise JaxptError(f"control_tokens={self.control_tokens} is neither text nor tokens{hint}")
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError as error:
            raise JaxptError(f"date={self.date} is not a day as YYYY-MM-DD ({error})") from error
        if self.packer not in PACKERS:
            known = ", ".join(PACKERS)
            raise JaxptError(f"packer={self.packer} is unknown{nearest(self.packer, PACKERS)}; there are {known}")

    @property
    def content_field(self) -> str:
        """Where a document's text or messages are."""
        return self.field or {"text": "text", "chat": "messages"}[self.kind]

    @property
    def caps(self) -> Caps:
        """How much one document may take."""
        return Caps(self.largest_record, self.largest_page, self.deepest_json)

    @property
    def fields(self) -> tuple[str, ...]:
        """What every document must have."""
        group = self.selection.group_field
        return (self.content_field, group) if group else (self.content_field,)

    def facts(self, tokenizer: Tokenizer | None) -> dict[str, object]:
        """Returns the options as plain values with everything decided, the template as its text.

        `control_tokens` is among them where it is not what versions without the option did (tokens in chats and with a
        `tokenizer.json`, text elsewhere), so that their sources are still found.
        """
        ends: dict[str, object] = {"bos": bool(self.bos), "eos": self.eos is not False} if self.kind == "text" else {}
        template = templates_of(tokenizer, self.template) if self.kind == "chat" else {}
        if self.eos_token is not None and tokenizer is not None:
            ends["eos_ids"] = tokenizer.token_ids(self.eos_token, "eos_token")
        chosen: dict[str, object] = {
            "kind": self.kind,
            "field": self.content_field,
            "packer": self.packer,
            **ends,
            **template,
        }
        if any("strftime_now" in text for text in template.values() if isinstance(text, str)):
            chosen |= {"date": self.date}
        chosen |= self.caps.changed_from(CAPS)
        if tokenizer is not None:
            chosen |= control_facts(self.control_tokens, tokenizer, self.kind)
        return {**chosen, "selection": asdict(self.selection)}


def control_facts(control_tokens: str, tokenizer: Tokenizer, kind: str = "text") -> dict[str, str]:
    """Returns what is noted of `control_tokens`: nothing where versions that did not know the option did the same."""
    before = "tokens" if kind == "chat" or tokenizer.tokens_when_spelled else "text"
    return {} if control_tokens == before else {"control_tokens": control_tokens}


def build(
    inputs: str | Sequence[str] | Origin,
    output: str | Path,
    tokenizer: Tokenizer,
    sequence_length: int,
    packing: Packing | None = None,
    *,
    rows_per_shard: int = 65_536,
    report: ReportDocuments = lambda documents, tokens: None,
) -> PackedSource:
    """Packs documents into rows of `sequence_length` tokens.

    Args:
        inputs: an origin, or what `open_origin` takes: a glob, directory or file, or a list of them.
        output: the packed source's directory; must not exist.
        tokenizer: a `jaxpt.tokenizers.Tokenizer`.
        sequence_length: tokens in a row.
        packing: how; None: as `Packing()` says.
        rows_per_shard: rows in one file.
        report: called now and then with the documents and tokens done since.

    Returns:
        The packed source, opened.

    Raises:
        JaxptError: bad input, named; nothing is left at `output` then.
    """
    packing = packing or Packing()
    origin = open_origin(inputs) if isinstance(inputs, str | Sequence) else inputs
    book = Tokenized([], [])
    facts = packing.facts(tokenizer)
    pad = tokenizer.pad_id if tokenizer.pad_id is not None else 0
    with PackedWriter(output, sequence_length, tokenizer.vocab_size, rows_per_shard=rows_per_shard) as writer:
        reading = Reading(writer.leave_out, packing.quarantine_limit)
        read = origin.documents(packing.fields, packing.caps, reading.aside)
        documents = _counted(_tokenized(reading.counted(read), packing, facts, tokenizer, book), report)
        for packed in PACKERS[packing.packer](documents, sequence_length, pad):
            writer.write(packed)
        facts |= {"text_bytes": book.text_bytes, **({"left_out": book.left_out} if packing.kind == "chat" else {})}
        facts |= {"control_tokens_met": book.control} if book.control else {}
        facts |= {"quarantined": writer.left_out} if writer.left_out else {}
        return writer.finish(book.ids, book.lengths, tokenizer.fingerprint, facts, tokenizer)


def build_tokenized(
    inputs: TokenizedDocuments,
    output: str | Path,
    sequence_length: int,
    packer: str = "best_fit",
    selection: Selection = ALL,
    *,
    where: tuple[str, str] | None = None,
    rows_per_shard: int = 65_536,
    report: ReportDocuments = lambda documents, tokens: None,
) -> PackedSource:
    """Packs documents that were tokenized before: byte for byte what `build` makes of their text.

    Args:
        inputs: the documents.
        output: the packed source's directory; must not exist.
        sequence_length: tokens in a row.
        packer: "best_fit" or "concat".
        selection: which documents are taken.
        where: only documents whose kept field has this value, `(field, value)`.
        rows_per_shard: rows in one file.
        report: called now and then with the documents and tokens done since.

    Raises:
        JaxptError: no such field, or nothing to pack.
    """
    book, made = Tokenized([], []), inputs.facts
    packing = Packing(field=made["text_field"], packer=packer, bos=made["bos"], eos=made["eos"], selection=selection)
    documents = _counted(inputs.documents(book, selection, where), report)
    with PackedWriter(output, sequence_length, made["vocab_size"], rows_per_shard=rows_per_shard) as writer:
        for packed in PACKERS[packer](documents, sequence_length, made["pad_id"]):
            writer.write(packed)
        facts = {**packing.facts(None), "text_bytes": book.text_bytes, **({"where": list(where)} if where else {})}
        facts |= {name: made[name] for name in ("eos_ids", "control_tokens", "control_tokens_met") if made.get(name)}
        return writer.finish(book.ids, book.lengths, made["tokenizer_fingerprint"], facts, inputs.tokenizer)


def _tokenized(
    documents: Iterator[Fields],
    packing: Packing,
    facts: dict[str, object],
    tokenizer: Tokenizer,
    book: Tokenized,
) -> Iterator[Document]:
    where: dict[str, Any] = {
        "selection": packing.selection,
        "control_tokens": packing.control_tokens == "tokens",
    }
    if packing.kind == "chat":
        name = tokenizer.template_name if packing.template is None else f"chat template {packing.template}"
        where |= {"field": facts["field"], "template": facts["template"], "tool_template": facts.get("tool_template")}
        where |= {"template_name": name, "date": packing.date}
        return tokenize_chats(documents, tokenizer, book, **where)
    where |= {"text_field": facts["field"], "bos": facts["bos"], "eos": facts["eos"], "end": facts.get("eos_ids", ())}
    return tokenize(documents, tokenizer, book, **where)


def _counted(documents: Iterator[Document], report: ReportDocuments) -> Iterator[Document]:
    for document in documents:
        report(1, len(document.tokens))
        yield document
