"""What names a tokenizer: its pieces, its special tokens and how it splits text, taken through the interface."""

import functools
import hashlib
import json
import re
import sys
from collections.abc import Collection, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from jaxpt.errors import JaxptError

if TYPE_CHECKING:
    from jaxpt.tokenizers.interface import Tokenizer

ALONE, AT_AN_END = 2048, 256  # pieces whose text is encoded by itself; and of the first and last of the vocabulary
TOGETHER = 64  # pieces in a line
_A_BYTE = re.compile("<0x[0-9A-F]{2}>")


def fingerprint(tokenizer: "Tokenizer") -> str:
    """Returns a SHA-256 (hex) over the pieces by id, the special tokens, and the ids of what tells ways of splitting
    apart: two texts shipped with jaxpt, and the tokenizer's own pieces as text, alone, amid letters and in lines.

    One tokenizer stored in two formats has one fingerprint.
    """
    named = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id]
    special = {i: (text, flags) for i, text, flags in tokenizer.special_tokens()}
    special |= {i: (tokenizer.piece(i), ()) for i in named if i is not None and i not in special}
    pieces = _pieces(tokenizer)
    facts = {
        "pieces": pieces,
        "named": named,
        "special": [[i, *special[i]] for i in sorted(special)],
        "probes": _ids(tokenizer, _texts(pieces, special.keys())),
    }
    return _digest(facts)


def accepts(tokenizer: "Tokenizer", stored: str | None, what: str) -> bool:
    """Whether `tokenizer` is the one that a stored fingerprint names, of this version or an earlier one.

    An earlier fingerprint says nothing of the splitting. Where another tokenizer may have had the same one, a line is
    printed.

    Args:
        tokenizer: the one at hand.
        stored: what was written with the data; None is nobody's.
        what: what carries it, for the line and the error.

    Raises:
        JaxptError: an earlier version read this tokenizer's files wrongly, and `what` was made with that.
    """
    if stored is None or stored == tokenizer.fingerprint:
        return stored is not None
    before = tokenizer.as_read_before()
    if before is not tokenizer and stored in (before.fingerprint, earlier_fingerprint(before)):
        if same_tokens(before, tokenizer):
            return True
        raise JaxptError(
            f"{what} was made by an earlier jaxpt that read {tokenizer.files[0]} without its special tokens or its way "
            f"of splitting; make it again with the tokenizer as it is read now"
        )
    if stored != earlier_fingerprint(tokenizer):
        return False
    other = tokenizer.mistaken_for()
    if other is not None and stored == earlier_fingerprint(other) and not same_tokens(other, tokenizer):
        print(
            f"{what} carries a fingerprint of an earlier jaxpt, which does not tell {tokenizer.files[0]} from its "
            f"vocab.json with merges.txt split as GPT-2 splits; if it was made from those, make it again",
            file=sys.stderr,
        )
    return True


def known_as(tokenizer: "Tokenizer", stored: str | None) -> bool:
    """Whether `stored` is a fingerprint that these files had in this version or in an earlier one, rightly read or not.

    Of a tokenizer that is kept with a bundle: its files are the same, and what is made of them from now on is right.
    """
    if stored == tokenizer.fingerprint or stored == earlier_fingerprint(tokenizer):
        return True
    before = tokenizer.as_read_before()
    return before is not tokenizer and stored in (before.fingerprint, earlier_fingerprint(before))


def earlier_names(tokenizer: "Tokenizer") -> list[str]:
    """Returns the fingerprints that earlier versions gave this tokenizer and no other that they could take for it."""
    before, other = tokenizer.as_read_before(), tokenizer.mistaken_for()
    names = {earlier_fingerprint(tokenizer), earlier_fingerprint(before)}
    wrong = [t for t in (before, other) if t is not None and t is not tokenizer and not same_tokens(t, tokenizer)]
    return sorted(names - {earlier_fingerprint(t) for t in wrong})


def same_tokens(a: "Tokenizer", b: "Tokenizer") -> bool:
    """Whether two tokenizers give every text the same ids, as far as the probes show; `bos_id` and such may differ."""
    pieces, special = _pieces(b), b.special_tokens()
    if _pieces(a) != pieces or a.special_tokens() != special:
        return False
    texts = _texts(pieces, [i for i, _, _ in special])
    return _ids(a, texts) == _ids(b, texts)


def earlier_fingerprint(tokenizer: "Tokenizer") -> str:
    """Returns what named a tokenizer until its splitting was part of it: pieces, special ids, ids of one short text."""
    facts = {
        "pieces": _pieces(tokenizer),
        "special": [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id],
        "probe": _ids(tokenizer, _probe()),
    }
    return _digest(facts)


def _ids(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    return [ids.tolist() for ids in tokenizer.encode_batch(texts)]


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def _probe() -> list[str]:
    return resources.files("jaxpt.tokenizers").joinpath("probe.txt").read_text(encoding="utf-8").split("\n\n")


def _splitting() -> list[str]:
    texts: list[str] = json.loads(resources.files("jaxpt.tokenizers").joinpath("splitting.json").read_text("ascii"))
    return texts


def _texts(pieces: Sequence[str], special: Collection[int]) -> list[str]:
    """The texts that tell tokenizers apart; of the pieces all but the special ones and those that stand for a byte."""
    read = _byte_level if _is_byte_level(pieces) else _metaspace
    kept = (i for i, piece in enumerate(pieces) if i not in special and not _A_BYTE.fullmatch(piece))
    texts = {i: text for i in kept if (text := read(pieces[i]))}
    ids = list(texts)
    ends = [texts[i] for i in dict.fromkeys([*ids[:AT_AN_END], *ids[-AT_AN_END:]])]
    alone = [texts[i] for i in ids[:: max(1, len(ids) // ALONE)]]
    lines = ["".join(texts[i] for i in ids[at : at + TOGETHER]) for at in range(0, len(ids), TOGETHER)]
    amid = [*(f"a{text}b" for text in ends), *(f"a {text} b" for text in ends)]
    return [*_probe(), *_splitting(), *alone, *amid, *lines]


def _pieces(tokenizer: "Tokenizer") -> list[str]:
    return [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]


def _metaspace(piece: str) -> str:
    return piece.replace("▁", " ")


def _is_byte_level(pieces: Sequence[str]) -> bool:
    return any(p.startswith("Ġ") for p in pieces) and not any(p.startswith("▁") for p in pieces)


@functools.cache
def _bytes_of_characters() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level vocabularies (Radford et al. 2019)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


def _byte_level(piece: str) -> str:
    table = _bytes_of_characters()
    if any(c not in table for c in piece):
        return piece
    return bytes(table[c] for c in piece).decode("utf-8", "ignore")
