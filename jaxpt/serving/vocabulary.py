"""Text to tokens of the served model and back, as its answers write them."""

import functools
import re
from collections.abc import Sequence

from jaxpt.errors import JaxptError
from jaxpt.generation.detokenize import UNFINISHED, text_after
from jaxpt.serving.refusal import Refusal
from jaxpt.tokenizers.interface import CharacterSpan, Tokenizer

BEHIND = 12  # tokens of the prompt that a continuation's text is decoded behind
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte in vocabularies of SentencePiece
_PRINTED = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
_BYTE_OF = {chr(b): b for b in _PRINTED}  # a byte in vocabularies of byte-level BPE (Radford et al. 2019)
_BYTE_OF |= {chr(256 + n): b for n, b in enumerate(sorted({*range(256)} - {*_PRINTED}))}


class ServedVocabulary:
    """A tokenizer with what a server needs beside it; used by several threads at once."""

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int], size: int, longest_prompt: int):
        """Takes the tokenizer.

        Args:
            tokenizer: of the model.
            ends: ids that end a continuation.
            size: entries of the model's vocabulary.
            longest_prompt: tokens; a text that must have more is refused before it is encoded.

        Raises:
            JaxptError: the tokenizer has neither BOS nor EOS.
        """
        self.tokenizer, self.ends, self.size, self.longest_prompt = tokenizer, tuple(ends), size, longest_prompt
        first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        if first is None:
            raise JaxptError("the tokenizer has neither BOS nor EOS, one of which stands for an empty prompt")
        self.first = first
        self.special = {i for i, _, _ in tokenizer.special_tokens()}
        pieces = (tokenizer.piece(i) for i in range(tokenizer.vocab_size))
        self._widest = max([16, *(len(p.encode(errors="replace")) for p in pieces)])
        self._anchor = tokenizer.encode("a")[-1:]
        self.token_text = functools.lru_cache(maxsize=100_000)(self._token_text)

    def encode(self, text: str, bos: bool = True, literal: Sequence[CharacterSpan] = ()) -> list[int]:
        """Returns the ids of a prompt; control tokens that it spells are such, but for the `literal` characters.

        Raises:
            Refusal: it must have more tokens than fit, or has one that the model lacks.
        """
        least = len(text) // self._widest
        if least > self.longest_prompt:
            raise too_long(self.longest_prompt, f"at least {least}", 0)
        if literal:
            ids = [int(i) for i in self.tokenizer.encode_with_offsets([text], True, [literal])[0][0]]
            begins = bos and self.tokenizer.adds_bos and ids[:1] != [self.tokenizer.bos_id]
            ids = [self.first, *ids] if begins else ids
        else:
            ids = self.tokenizer.encode_prompt(text, bos)
        return self.checked(ids, "the prompt")

    def checked(self, ids: list[int], what: str) -> list[int]:
        """Returns `ids` where the model has all of them.

        Raises:
            Refusal: it lacks one.
        """
        for wrong in (max(ids, default=0), min(ids, default=0)):
            if not 0 <= wrong < self.size:
                raise Refusal(400, f"{what} has token id {wrong}, the model's vocabulary has {self.size}")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, control tokens as the tokenizer's library writes them."""
        return self.tokenizer.decode(ids)

    def before(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """Returns the end of a prompt that its continuation's text is decoded behind."""
        return tuple(i for i in prompt[-BEHIND:] if i not in self.special)

    def continuation(
        self, prompt: Sequence[int], tokens: Sequence[int], *, ended: bool, skip_special: bool, kept: frozenset[int]
    ) -> str:
        """Returns the text of a continuation.

        Args:
            prompt: what it follows.
            tokens: the continuation; where it has `ended` by a token, that one is left out.
            ended: whether the last token ended it.
            skip_special: whether control tokens are left out.
            kept: control tokens that stay nevertheless.
        """
        shown = tokens[:-1] if ended else tokens
        if skip_special:
            shown = [i for i in shown if i not in self.special or i in kept]
        return text_after(self.tokenizer.decode, self.before(prompt), shown)

    def _token_text(self, i: int) -> str:
        """The text of one token, with the space that a tokenizer leaves out at a text's beginning."""
        return text_after(self.tokenizer.decode, self._anchor, [i]) or (
            self.tokenizer.piece(i) if self._named(i) else ""
        )

    def _named(self, i: int) -> bool:
        return i in self.special or i in self.ends

    def token_bytes(self, i: int) -> list[int] | None:
        """Returns the UTF-8 bytes of one token; None where the tokenizer does not say which they are."""
        text = self.token_text(i)
        if UNFINISHED not in text:
            return list(text.encode())
        piece = self.tokenizer.piece(i)
        if found := _BYTE.fullmatch(piece):
            return [int(found[1], 16)]
        return [_BYTE_OF[c] for c in piece] if piece and all(c in _BYTE_OF for c in piece) else None


def too_long(room: int, prompt: int | str, new: int) -> Refusal:
    """What is answered where a prompt and its continuation do not fit; in the words that OpenAI's clients know."""
    wanted = f"{prompt + new}" if isinstance(prompt, int) else prompt
    parts = f"{prompt} in the messages or the prompt" + (f", {new} for the completion" if new else "")
    return Refusal(
        400,
        f"This model's maximum context length is {room} tokens. However, you requested {wanted} tokens ({parts}). "
        f"Please reduce the length of the messages, the prompt or the completion (max_tokens).",
        code="context_length_exceeded",
    )
