"""The text of tokens that stand behind others."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no whole character


def text_after(decode: Decode, before: Sequence[int], tokens: Sequence[int]) -> str:
    """Returns the text of `tokens` as it stands behind the tokens `before`.

    A tokenizer may leave out a space at the beginning of a text, which `before` keeps. Where it writes both together
    otherwise than `before` alone, the tokens are decoded by themselves.
    """
    if not before:
        return decode(tokens)
    begun = decode(before).rstrip(UNFINISHED)
    whole = decode([*before, *tokens])
    return whole[len(begun) :] if whole.startswith(begun) else decode(tokens)
