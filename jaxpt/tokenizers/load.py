"""Finding and reading a tokenizer in a directory or a file."""

from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError, short
from jaxpt.files.digests import NAME, Digests, with_digests
from jaxpt.files.strangers import parse_json, read_text, regular_file
from jaxpt.tokenizers.huggingface import HuggingFaceTokenizer, read_byte_level_bpe, read_json
from jaxpt.tokenizers.interface import Tokenizer
from jaxpt.tokenizers.sentencepiece import SentencePieceTokenizer

_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
GPT2 = ("GPT2Tokenizer", "GPT2TokenizerFast")  # whose vocab.json and merges.txt say all


def load(path: str | Path) -> Tokenizer:
    """Returns the tokenizer at `path`.

    Args:
        path: a directory, a SentencePiece `.model`, or a `tokenizer.json`. A directory with several forms is read
            from `tokenizer.json`, then `tokenizer.model`, then `vocab.json` with `merges.txt`.

    Raises:
        JaxptError: nothing there is a tokenizer, or not a whole one: tokens were added in files that only the library
            which wrote them can read; or it is that of a bundle or a run and is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise JaxptError(f"tokenizer {path} does not exist")
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
    beside = [p for n in _BESIDE if (p := regular_file(folder, n)) is not None]
    settings = _settings(folder)
    if chosen.name == "vocab.json":
        merges = folder / "merges.txt"
        if regular_file(folder, merges.name) is None:
            raise JaxptError(f"{merges} is missing; {chosen} needs it")
        if (kind := settings.get("tokenizer_class", GPT2[0])) not in GPT2:
            raise JaxptError(f"{chosen}: a {kind} splits text in its own way; {_convert(folder)}")
        tokenizer = HuggingFaceTokenizer(read_byte_level_bpe(chosen, merges), [chosen, merges, *beside], settings)
        return _whole(tokenizer, chosen)
    if chosen.suffix == ".json":
        extra = [p for p in known if p.name == "tokenizer.model"]  # carried along: other tools look for it
        return HuggingFaceTokenizer(read_json(chosen), [chosen, *extra, *beside], settings)
    return _whole(SentencePieceTokenizer(chosen, [chosen, *beside], settings), chosen)


def _check_digests(folder: Path) -> None:
    """Compares the tokenizer of a bundle or a run with the digests beside it."""
    around = folder.absolute().parent
    if folder.absolute().name == "tokenizer" and ((around / NAME).exists() or (around / "model.json").exists()):
        with_digests(around, _check_tokenizer)


def _check_tokenizer(digests: Digests | None) -> None:
    if digests is not None:
        digests.check("tokenizer")


def _whole(tokenizer: Tokenizer, file: Path) -> Tokenizer:
    """Returns `tokenizer`, unless tokens were added beside its file, which it would split into pieces in silence."""
    added = {text: i for text, i in _json(file.parent / "added_tokens.json").items() if isinstance(i, int)}
    for i, token in tokenizer.settings.get("added_tokens_decoder", {}).items():
        added[token["content"]] = int(i)
    for text, i in added.items():
        if i >= tokenizer.vocab_size or tokenizer.piece(i) != text:
            raise JaxptError(f"{file} has no {text!r} (id {i}), which was added beside it; {_convert(file.parent)}")
    return tokenizer


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
