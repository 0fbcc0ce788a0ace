"""What every tokenizer can do, whichever library does it."""

import functools
import hashlib
import json
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from jaxpt.errors import JaxptError

CharacterSpan = tuple[int, int]
TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json")
UNPAIRED = re.compile("[\ud800-\udfff]")  # surrogates that UTF-8 cannot hold


def encodable(text: str) -> str:
    """Returns `text` with each unpaired surrogate as U+FFFD, one character for one."""
    return text if text.isascii() or not UNPAIRED.search(text) else UNPAIRED.sub("\ufffd", text)


class Tokenizer(ABC):
    """Text to token ids and back.

    `bos_id, eos_id, pad_id, unk_id` are None where the tokenizer has none. `files` are the files it was read from;
    `save` copies them unchanged. `chat_template` is a Jinja template or None.

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
        template = self.settings.get("chat_template")
        if isinstance(template, list):  # several by name
            template = {t["name"]: t["template"] for t in template}.get("default")
        self.chat_template: str | None = template if isinstance(template, str) else None

    @abstractmethod
    def piece(self, i: int) -> str:
        """Returns the vocabulary entry of an id, as stored."""

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
    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids; special tokens are written out as the library does."""

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
        """SHA-256 (hex) over the pieces by id, the special ids, and the ids of a probe text shipped with jaxpt.

        Computed through this interface, so that one tokenizer stored in two formats has one fingerprint.
        """
        probe = resources.files("jaxpt.tokenizers").joinpath("probe.txt").read_text(encoding="utf-8")
        facts = {
            "pieces": [self.piece(i) for i in range(self.vocab_size)],
            "special": [self.bos_id, self.eos_id, self.pad_id, self.unk_id],
            "probe": [self.encode(line) for line in probe.split("\n\n")],
        }
        return hashlib.sha256(json.dumps(facts, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()

    def save(self, directory: str | Path) -> None:
        """Copies the tokenizer's files into `directory`, which is made."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for file in self.files:
            if file.resolve() != (directory / file.name).resolve():
                shutil.copyfile(file, directory / file.name)

    def apply_chat_template(self, messages: Sequence[Mapping[str, object]], **values: object) -> str:
        """Returns a conversation as its template writes it (rendered in a sandbox; a template is foreign code).

        Args:
            messages: `{"role": …, "content": …}` each, plus what the template knows (`tool_calls`, …).
            **values: further names for the template (`tools`, `add_generation_prompt`); `strftime_now` says today.

        Raises:
            JaxptError: no template, or the template refuses the messages.
        """
        from jaxpt.tokenizers.chat import render

        if self.chat_template is None:
            raise JaxptError(f"the tokenizer {self.files[0]} has no chat template; add chat_template.jinja beside it")
        values = {**self.special_texts, **values}
        return render(self.chat_template, list(messages), values, name=self.template_name)

    @property
    def template_name(self) -> str:
        """Returns what the chat template is called in errors: the file that it was read from."""
        folder, names = self.files[0].parent, {file.name for file in self.files}
        return f"chat template {folder / next((n for n in TEMPLATE_FILES if n in names), '')}"

    @property
    def special_texts(self) -> dict[str, str]:
        """`bos_token`, `eos_token`, `pad_token`, `unk_token` as templates write them; empty where there is none."""
        ids = {name: getattr(self, f"{name}_id") for name in ("bos", "eos", "pad", "unk")}
        return {f"{name}_token": "" if i is None else self.piece(i) for name, i in ids.items()}

    def _special_text(self, name: str) -> str | None:
        """The text of a special token as the settings name it."""
        value = self.settings.get(f"{name}_token")
        return value.get("content") if isinstance(value, dict) else value
