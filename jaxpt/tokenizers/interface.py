"""What every tokenizer can do, whichever library does it."""

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpt.errors import JaxptError, nearest
from jaxpt.tokenizers import fingerprints
from jaxpt.tokenizers.templates import DEFAULT, named_templates, template_for

SpecialToken = tuple[int, str, tuple[str, ...]]  # id, text, and which of `FLAGS` it has
FLAGS = ("lstrip", "rstrip", "single_word")

CharacterSpan = tuple[int, int]
TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json")
UNPAIRED = re.compile("[\ud800-\udfff]")  # surrogates that UTF-8 cannot hold


def encodable(text: str) -> str:
    """Returns `text` with each unpaired surrogate as U+FFFD, one character for one."""
    return text if text.isascii() or not UNPAIRED.search(text) else UNPAIRED.sub("\ufffd", text)


class Tokenizer(ABC):
    """Text to token ids and back.

    `bos_id, eos_id, pad_id, unk_id` are None where the tokenizer has none. `files` are the files it was read from, in
    one folder; `save` copies them unchanged. `chat_templates` are Jinja templates by name, `chat_template` is the one
    called `default`, or None.

    A *control token* (`</s>`, `<|im_start|>`) says where a document or a turn begins or ends. Text that spells one is
    encoded as the text that it is, unless `control_tokens` is set: then it becomes that token.
    """

    tokens_when_spelled = False  # whether earlier versions read a spelled control token as that token

    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    unk_id: int | None
    vocab_size: int

    def __init__(self, files: Sequence[Path], settings: dict[str, Any] | None = None):
        """Remembers the files and the settings of `tokenizer_config.json`."""
        self.files = tuple(files)
        self.settings = settings or {}
        self.written: dict[str, bytes] = {}  # files that are kept with another content than the one read
        self.chat_templates = named_templates(self.settings.get("chat_template"), str(self.files[0]))
        self.chat_template: str | None = self.chat_templates.get(DEFAULT)

    @abstractmethod
    def piece(self, i: int) -> str:
        """Returns the vocabulary entry of an id, as stored."""

    def token_text(self, i: int) -> str:
        """Returns a special token as texts and templates write it."""
        return self.piece(i)

    @property
    @abstractmethod
    def control_texts(self) -> tuple[str, ...]:
        """How the control tokens are spelled."""

    @functools.cached_property
    def control(self) -> re.Pattern[str]:
        """Finds spelled control tokens in a text, the longest where several begin."""
        return re.compile("|".join(map(re.escape, sorted(self.control_texts, key=len, reverse=True))) or "(?!)")

    def count_control(self, texts: Sequence[str]) -> int:
        """Returns how often `texts` spell a control token."""
        begin = {text[:2] for text in self.control_texts}  # a look for these is quick, and mostly in vain
        return sum(sum(1 for _ in self.control.finditer(t)) for t in texts if any(b in t for b in begin))

    @abstractmethod
    def _encode(self, texts: list[str], control_tokens: bool = False) -> list[list[int]]:
        """Encodes without special tokens, on all cores."""

    @abstractmethod
    def _decode(self, ids: list[int]) -> str:
        """Decodes ids of the vocabulary."""

    @abstractmethod
    def special_tokens(self) -> list[SpecialToken]:
        """Returns the tokens that steer a model and are no text, by id."""

    @property
    @abstractmethod
    def adds_bos(self) -> bool:
        """Whether a prompt begins with BOS, as `add_bos_token` says, else the tokenizer's own rule for whole texts."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids; special tokens are written out as the library does.

        Ids that the tokenizer does not have (a model's vocabulary may be padded beyond it) are left out.
        """
        return self._decode([i for i in map(int, ids) if 0 <= i < self.vocab_size])

    def encode_prompt(self, text: str, bos: bool = True, control_tokens: bool = True) -> list[int]:
        """Returns the ids of a text to be continued; control tokens that it spells are read as such unless told not to.

        It begins with BOS where the tokenizer `adds_bos` and `bos` is True, and never with two: a chat template has
        mostly written one.
        """
        ids = [int(i) for i in self.encode_with_offsets([text], control_tokens)[0][0]]
        begins = bos and self.adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id]
        return [*self._special("bos", begins), *ids]

    def encode(self, text: str, bos: bool = False, eos: bool = False, control_tokens: bool = False) -> list[int]:
        """Returns the ids of `text`, with BOS and EOS where asked for.

        Control tokens that it spells are read as such only with `control_tokens`.

        Raises:
            JaxptError: BOS or EOS was asked for and the tokenizer has none.
        """
        ids = self._encode([encodable(text)], control_tokens)[0]
        return [*self._special("bos", bos), *ids, *self._special("eos", eos)]

    def encode_batch(
        self, texts: Sequence[str], bos: bool = False, eos: bool = False, control_tokens: bool = False
    ) -> list[np.ndarray]:
        """Returns the ids of each text as an int32 array; uses all cores and releases the GIL meanwhile.

        Options as those of `encode`.
        """
        head, tail = self._special("bos", bos), self._special("eos", eos)
        encoded = self._encode(list(map(encodable, texts)), control_tokens)
        return [np.concatenate([np.asarray(part, np.int32) for part in (head, ids, tail)]) for ids in encoded]

    @abstractmethod
    def encode_with_offsets(
        self,
        texts: Sequence[str],
        control_tokens: bool = False,
        literal: Sequence[Sequence[CharacterSpan]] | None = None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns the ids `[n]` int32 of each text and the `[n, 2]` (start, stop) characters of each id.

        Of a character that takes several ids, all but one may have an empty range, at its start.

        Args:
            texts: to be encoded.
            control_tokens: read control tokens that a text spells as such.
            literal: of each text, characters that are text whatever they spell.
        """

    def token_ids(self, text: str, where: str) -> list[int]:
        """Returns the ids of tokens that are written one after the other, each by its whole text.

        Args:
            text: such as `<|im_end|>` or `<|eot_id|><|end_of_text|>`; the longest token that fits is taken.
            where: the option that gives it, for errors.

        Raises:
            JaxptError: it is not made of the tokenizer's control tokens.
        """
        known = {content: i for i, content, _ in self.special_tokens()}
        known |= {self.token_text(i): i for i in (self.bos_id, self.eos_id, self.pad_id) if i is not None}
        ids: list[int] = []
        left = text
        while left or not ids:
            fits = max((t for t in known if t and left.startswith(t)), key=len, default=None)
            if fits is None:
                names = ", ".join(sorted(known)[:12])
                raise JaxptError(
                    f"{where}={text}: {left!r} is no control token of {self.files[0]}{nearest(left, known)}; "
                    f"there are {names}"
                )
            ids.append(known[fits])
            left = left[len(fits) :]
        return ids

    def _control_spans(self, text: str, literal: Sequence[CharacterSpan]) -> list[CharacterSpan]:
        """Where `text` spells a control token that overlaps none of the `literal` characters."""
        spans = (match.span() for match in self.control.finditer(text))
        return [(a, b) for a, b in spans if not any(a < stop and start < b for start, stop in literal)]

    def _special(self, name: str, wanted: bool) -> list[int]:
        if not wanted:
            return []
        i = getattr(self, f"{name}_id")
        if i is None:
            raise JaxptError(f"the tokenizer {self.files[0]} has no {name.upper()} token; set add_{name}=False")
        return [i]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of pieces, special tokens and splitting, as `fingerprints.fingerprint` takes it."""
        return fingerprints.fingerprint(self)

    def as_read_before(self) -> "Tokenizer":
        """Returns what earlier versions made of the same files: this tokenizer, where they made no mistake."""
        return self

    def mistaken_for(self) -> "Tokenizer | None":
        """Returns the tokenizer that earlier versions made of this one's `vocab.json` and `merges.txt`, if it has such.

        What was packed with it may carry the earlier fingerprint of this one.
        """
        return None

    def contents(self) -> dict[str, bytes]:
        """Returns the tokenizer's files by name relative to their folder (`/` between), as they are kept."""
        folder = self.files[0].parent
        return {f.relative_to(folder).as_posix(): f.read_bytes() for f in self.files} | self.written

    def save(self, directory: str | Path) -> None:
        """Writes the tokenizer's files into `directory`, which is made."""
        write_contents(self.contents(), directory)

    def apply_chat_template(self, messages: Sequence[Mapping[str, object]], **values: object) -> str:
        """Returns a conversation as its template writes it (rendered in a sandbox; a template is foreign code).

        Args:
            messages: `{"role": …, "content": …}` each, plus what the template knows (`tool_calls`, …).
            **values: further names for the template (`tools`, for which the template called `tool_use` is taken where
                there is one; `add_generation_prompt`); `strftime_now` says today.

        Raises:
            JaxptError: no template, or the template refuses the messages.
        """
        from jaxpt.tokenizers.chat import render

        template = template_for(self.chat_templates, values.get("tools"), str(self.files[0]))
        return render(template, list(messages), {**self.special_texts, **values}, name=self.template_name)

    @property
    def template_name(self) -> str:
        """Returns what the chat template is called in errors: the file that it was read from."""
        folder, names = self.files[0].parent, {file.name for file in self.files}
        return f"chat template {folder / next((n for n in TEMPLATE_FILES if n in names), '')}"

    @property
    def special_texts(self) -> dict[str, str]:
        """`bos_token`, `eos_token`, `pad_token`, `unk_token` as templates write them; empty where there is none."""
        ids = {name: getattr(self, f"{name}_id") for name in ("bos", "eos", "pad", "unk")}
        return {f"{name}_token": "" if i is None else self.token_text(i) for name, i in ids.items()}


def write_contents(contents: Mapping[str, bytes], directory: str | Path) -> None:
    """Writes files by their names relative to `directory`, which is made; those that are there with it are kept."""
    directory = Path(directory)
    for name, content in contents.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_bytes() != content:
            file.write_bytes(content)
