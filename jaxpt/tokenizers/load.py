"""Finding and reading a tokenizer in a directory or a file."""

import json
from pathlib import Path
from typing import Any

from tokenizers import models

from jaxpt.errors import JaxptError, short
from jaxpt.files.absent import absent_model
from jaxpt.files.digests import NAME, Digests, with_digests
from jaxpt.files.strangers import parse_json, read_text, regular_file
from jaxpt.tokenizers.added import add_told_tokens, special_told, told_tokens
from jaxpt.tokenizers.classes import PLAIN, class_name, special_texts
from jaxpt.tokenizers.convert import (
    as_llama_splits,
    as_sentencepiece_splits,
    is_llamas,
    puts_a_space,
    read_proto,
    spaces_differ,
)
from jaxpt.tokenizers.fingerprints import same_tokens
from jaxpt.tokenizers.huggingface import HuggingFaceTokenizer, as_gpt2, read_json
from jaxpt.tokenizers.interface import Tokenizer
from jaxpt.tokenizers.sentencepiece import SentencePieceTokenizer
from jaxpt.tokenizers.slow import add_roberta_ends, read_vocab_and_merges
from jaxpt.tokenizers.templates import additional_files, named_templates

_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")


def load(path: str | Path) -> Tokenizer:
    """Returns the tokenizer at `path`.

    Args:
        path: a directory, a SentencePiece `.model`, or a `tokenizer.json`. A directory with several forms is read
            from `tokenizer.json`, then `tokenizer.model`, then `vocab.json` with `merges.txt`. Tokens told beside these
            files are added, and the older forms are split, as transformers does it.

    Raises:
        JaxptError: nothing there is a tokenizer, or not a whole one: tokens were added beside it in a way that cannot
            be followed exactly; or it is that of a bundle or a run and is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise JaxptError(f"tokenizer {path} {absent_model(path)}")
    folder = path if path.is_dir() else path.parent
    _check_digests(path if path.name == "tokenizer" else folder)
    known = sorted(folder.glob("*.model"), key=lambda p: p.name != "tokenizer.model")
    chosen = path
    if path.is_dir():
        names = ("tokenizer.json", *(p.name for p in known), "vocab.json")
        candidates = [p for n in names if (p := regular_file(folder, n)) is not None]
        if not candidates:
            raise JaxptError(f"{path} holds no tokenizer: no tokenizer.json, *.model, or vocab.json with merges.txt")
        chosen = candidates[0]
    elif not path.is_file():
        raise JaxptError(f"tokenizer {path} is not a regular file")
    known = [p for p in known if p == path or regular_file(folder, p.name)]
    beside = [p for n in _BESIDE if (p := regular_file(folder, n)) is not None] + additional_files(folder)
    settings = _settings(folder)
    if chosen.name == "vocab.json":
        return _from_vocab(chosen, beside, settings)
    if chosen.suffix == ".json":
        extra = [p for p in known if p.name == "tokenizer.model"]  # carried along: other tools look for it
        return _from_json(chosen, [chosen, *extra, *beside], settings)
    return _from_sentencepiece(chosen, [chosen, *beside], settings)


def _from_json(file: Path, files: list[Path], settings: dict[str, Any]) -> Tokenizer:
    inner, name = read_json(file), class_name(settings)
    add_told_tokens(inner, settings, _json(file.parent / "added_tokens.json"), name, str(file))
    plain = PLAIN[0] if "tokenizer_class" in settings else None  # which earlier versions took for every class

    def before() -> Tokenizer:
        return HuggingFaceTokenizer(read_json(file), files, settings, plain)

    return HuggingFaceTokenizer(inner, files, settings, name, before)


def _from_vocab(vocab: Path, beside: list[Path], settings: dict[str, Any]) -> Tokenizer:
    """`vocab.json` with `merges.txt`; config.json may tell the class, which is kept then."""
    folder, merges = vocab.parent, vocab.with_name("merges.txt")
    if regular_file(folder, merges.name) is None:
        raise JaxptError(f"{merges} is missing; {vocab} needs it")
    name = class_name(settings, _json(folder / "config.json"))
    inner = read_vocab_and_merges(vocab, merges, name, settings, _convert(folder))
    add_told_tokens(inner, settings, _json(folder / "added_tokens.json"), name, str(vocab))
    if name is None:
        inner.add_special_tokens([t for t in ("<|endoftext|>",) if inner.token_to_id(t) is not None])
    if name == "RobertaTokenizer":
        add_roberta_ends(inner, special_texts(settings, name), settings.get("add_prefix_space") is True)
    files = [vocab, merges, *beside]
    plain = PLAIN[0] if "tokenizer_class" in settings else None

    def before() -> Tokenizer:
        return HuggingFaceTokenizer(as_gpt2(models.BPE.from_file(str(vocab), str(merges))), files, settings, plain)

    tokenizer = HuggingFaceTokenizer(inner, files, settings, name, before)
    if name is not None and class_name(settings) is None:
        told = {**_json(folder / "tokenizer_config.json"), "tokenizer_class": name}
        tokenizer.written["tokenizer_config.json"] = json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n"
    return tokenizer


def _from_sentencepiece(model: Path, files: list[Path], settings: dict[str, Any]) -> Tokenizer:
    """A SentencePiece model by its own library, unless tokens were added beside it, which that cannot hold, or the
    settings give spaces to other parts of a text than that does."""
    tokenizer, folder = SentencePieceTokenizer(model, files, settings), model.parent
    lacks, name = _lacks(tokenizer, _json(folder / "added_tokens.json")), class_name(settings)
    if not lacks and not spaces_differ(settings, name):
        return tokenizer
    proto = read_proto(model)
    plain = HuggingFaceTokenizer(as_sentencepiece_splits(proto), files, {})
    if not same_tokens(plain, tokenizer) or (name == "LlamaTokenizer" and not lacks and not is_llamas(proto)):
        if not lacks:
            return tokenizer
        raise JaxptError(
            f"{model}: tokens were added beside it, and it has no exact tokenizer.json; {_convert(folder)}"
        )
    if name == "LlamaTokenizer":
        inner = as_llama_splits(proto, settings, model)
    else:
        inner = as_sentencepiece_splits(proto, settings.get("legacy") is not False)
    settings = {"add_bos_token": True, **tokenizer.own_special(), **settings}
    added, spelled = _json(folder / "added_tokens.json"), name != "LlamaTokenizer" and puts_a_space(proto)
    add_told_tokens(inner, settings, added, name, str(model), as_spelled=spelled)
    made = HuggingFaceTokenizer(inner, files, settings, name, None if lacks else lambda: tokenizer)
    made.tokens_when_spelled = lacks
    return made


def _lacks(tokenizer: SentencePieceTokenizer, added: dict[str, Any]) -> bool:
    """Whether the files beside a SentencePiece model tell of tokens that are none of its pieces."""
    where = str(tokenizer.files[0])
    named, by_id = special_told(tokenizer.settings), told_tokens(tokenizer.settings, added, (), where)
    texts = {tokenizer.piece(i) for i in range(tokenizer.vocab_size)}
    return not texts.issuperset(named) or any(tokenizer.piece(i) != t.content for i, t in by_id.items())


def _check_digests(folder: Path) -> None:
    """Compares the tokenizer of a bundle or a run with the digests beside it."""
    around = folder.absolute().parent
    if folder.absolute().name == "tokenizer" and ((around / NAME).exists() or (around / "model.json").exists()):
        with_digests(around, _check_tokenizer)


def _check_tokenizer(digests: Digests | None) -> None:
    if digests is not None:
        digests.check("tokenizer")


def _convert(folder: Path) -> str:
    load_it = f"AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')"
    return f'make a tokenizer.json: python -c "from transformers import AutoTokenizer; {load_it}"'


def _json(file: Path) -> dict[str, Any]:
    if regular_file(file.parent, file.name) is None:
        return {}
    values = parse_json(read_text(file), str(file))
    if not isinstance(values, dict):
        raise JaxptError(f"{file} holds no dictionary of keys; fetch it again or remove it")
    return values


def _settings(folder: Path) -> dict[str, Any]:
    settings = {**_json(folder / "special_tokens_map.json"), **_json(folder / "tokenizer_config.json")}
    _check_settings(folder, settings)
    template = regular_file(folder, "chat_template.jinja")
    if template is not None:
        settings["chat_template"] = read_text(template)
    if further := additional_files(folder):
        named = named_templates(settings.get("chat_template"), str(folder / "tokenizer_config.json"))
        settings["chat_template"] = named | {file.stem: read_text(file) for file in further}
    return settings


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuses settings of another type than what reads them expects."""

    def check(key: str, fits: bool, what: str) -> None:
        if not fits:
            raise JaxptError(f"{folder / 'tokenizer_config.json'}: {key} is {short(settings[key])}, it must be {what}")

    for name in ("bos", "eos", "pad", "unk"):
        value = settings.get(key := f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        check(key, text is None or isinstance(text, str), "the token's text") if key in settings else None
    if (added := settings.get("added_tokens_decoder")) is not None:
        fits = isinstance(added, dict) and all(
            i.isascii() and i.isdigit() and isinstance(t, dict) and isinstance(t.get("content"), str)
            for i, t in added.items()
        )
        check("added_tokens_decoder", fits, "tokens by their ids")
    template = settings.get("chat_template")
    if isinstance(template, list):
        texts = [t.get(k) for t in template if isinstance(t, dict) for k in ("name", "template")]
        fits = all(isinstance(t, dict) for t in template) and all(isinstance(t, str) for t in texts)
        check("chat_template", fits, "a template or a list of {name, template}")
