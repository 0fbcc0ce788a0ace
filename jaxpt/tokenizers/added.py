"""Tokens told beside a vocabulary, added to it as transformers adds them, or refused."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

from jaxpt.errors import JaxptError
from jaxpt.tokenizers.classes import NAMES, special_texts

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def add_told_tokens(
    inner: Tokenizer,
    settings: Mapping[str, Any],
    added: Mapping[str, int],
    name: str | None,
    where: str,
    *,
    as_spelled: bool = False,
) -> None:
    """Adds to `inner` what the files beside it tell.

    As transformers does: first the tokens of `added_tokens_decoder` (or `added_tokens.json`) by their ids, then the
    special tokens that are named and are no added tokens yet. What `added_tokens_decoder` says of a token that is there
    holds. The library gives ids of its own, one after the other; a token whose id it would change is refused, for the
    model knows it by the id it was told with.

    Args:
        inner: changed in place.
        settings: of `tokenizer_config.json`.
        added: of `added_tokens.json`, read where the settings have no `added_tokens_decoder`.
        name: the tokenizer's class, as from `class_name`.
        where: the file of the vocabulary, for errors.
        as_spelled: tokens told with an id are looked for in the text itself, not in what a normaliser makes of it.

    Raises:
        JaxptError: a token that would get another id than it was told with, or is told in another form.
    """
    named = [t for t in special_texts(settings, name).values() if t is not None]
    told = told_tokens(settings, added, {*named, *_extra(settings)}, where)
    there = {t.content for t in inner.get_added_tokens_decoder().values()}
    if "added_tokens_decoder" in settings:
        there -= {t.content for t in told.values()}
    in_order = [t for _, t in sorted(told.items(), key=lambda item: item[0])]
    tokens = {t.content: _as_spelled(t) if as_spelled else t for t in in_order}
    for text in named:
        if text in tokens:
            tokens[text].special = True
    for token in [*_special(settings, named), *_further(settings)]:
        tokens.setdefault(token.content, token)
    inner.add_tokens([t for t in tokens.values() if t.content not in there])
    for i, token in told.items():
        if (got := inner.token_to_id(token.content)) != i:
            raise JaxptError(
                f"{where}: {token.content!r} was added beside it with the id {i}, the library gives it {got}; correct "
                f"the id, or fetch the directory again"
            )


def told_tokens(
    settings: Mapping[str, Any], added: Mapping[str, int], special: Collection[str], where: str
) -> dict[int, AddedToken]:
    """Returns the tokens that are told with an id; arguments as `add_told_tokens`, `special` the texts that are so."""
    told = settings.get("added_tokens_decoder")
    if told is None:
        return {i: _token(t, t in special, where) for t, i in added.items() if isinstance(i, int)}
    if not isinstance(told, Mapping) or not all(str(i).isascii() and str(i).isdigit() for i in told):
        raise JaxptError(f"{where}: added_tokens_decoder beside it must give a token for each id; fetch it again")
    return {int(i): _token(token, False, where) for i, token in told.items()}


def _token(value: object, special: bool, where: str) -> AddedToken:
    if isinstance(value, str) and value:
        return AddedToken(value, normalized=not special, special=special)
    if isinstance(value, Mapping) and isinstance(value.get("content"), str) and value["content"]:
        flags = {name: bool(value[name]) for name in _FLAGS if name in value}
        return AddedToken(value["content"], **{"normalized": not flags.get("special", special), **flags})
    raise JaxptError(f"{where}: a token told beside it has no text ({str(value)[:60]!r}); fetch it again")


def _special(settings: Mapping[str, Any], named: Sequence[str]) -> list[AddedToken]:
    """The named special tokens, with the flags that the settings give them."""
    flags = {v["content"]: v for n in NAMES if isinstance(v := settings.get(f"{n}_token"), Mapping) and "content" in v}
    return [_token({**flags.get(text, {}), "content": text, "special": True}, True, "") for text in named]


def _as_spelled(token: AddedToken) -> AddedToken:
    flags = {name: getattr(token, name) for name in _FLAGS}
    return AddedToken(token.content, **{**flags, "normalized": False})


def special_told(settings: Mapping[str, Any]) -> list[str]:
    """Returns the texts of the special tokens that the settings name."""
    return [*(t for t in special_texts(settings, None).values() if t is not None), *_extra(settings)]


def _extra(settings: Mapping[str, Any]) -> list[str]:
    return [t.content for t in _further(settings)]


def _further(settings: Mapping[str, Any]) -> list[AddedToken]:
    """Special tokens that have no usual name: a list, a dict of name to token, and other keys that end in `_token`."""
    value = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    entries = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []
    usual = {f"{n}_token" for n in NAMES}
    own = [v for k, v in settings.items() if k.endswith("_token") and k not in usual]
    kept = [v for v in (*own, *entries) if isinstance(v, str | Mapping) and v]
    return [_token({**(v if isinstance(v, Mapping) else {"content": v}), "special": True}, True, "") for v in kept]
