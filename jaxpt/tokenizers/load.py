"""Finding and reading a tokenizer in a directory or a file."""

import json
from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError
from jaxpt.tokenizers.huggingface import HuggingFaceTokenizer, read_byte_level_bpe, read_json
from jaxpt.tokenizers.interface import Tokenizer
from jaxpt.tokenizers.sentencepiece import SentencePieceTokenizer

_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")


def load(path: str | Path) -> Tokenizer:
    """Returns the tokenizer at `path`.

    Args:
        path: a directory, a SentencePiece `.model`, or a `tokenizer.json`. A directory with several forms is read
            from `tokenizer.json`, then `tokenizer.model`, then `vocab.json` with `merges.txt`.

    Raises:
        JaxptError: nothing there is a tokenizer.
    """
    path = Path(path)
    if not path.exists():
        raise JaxptError(f"tokenizer {path} does not exist")
    folder = path if path.is_dir() else path.parent
    known = sorted(folder.glob("*.model"), key=lambda p: p.name != "tokenizer.model")
    if path.is_file():
        chosen = path
    else:
        candidates = [folder / "tokenizer.json", *known, folder / "vocab.json"]
        chosen = next((p for p in candidates if p.is_file()), None)
        if chosen is None:
            raise JaxptError(f"{path} holds no tokenizer: no tokenizer.json, *.model, or vocab.json with merges.txt")
    beside = [folder / n for n in _BESIDE if (folder / n).is_file()]
    settings = _settings(folder)
    if chosen.name == "vocab.json":
        merges = folder / "merges.txt"
        if not merges.is_file():
            raise JaxptError(f"{merges} is missing; {chosen} needs it")
        return HuggingFaceTokenizer(read_byte_level_bpe(chosen, merges), [chosen, merges, *beside], settings)
    if chosen.suffix == ".json":
        extra = [p for p in known if p.name == "tokenizer.model"]  # carried along: other tools look for it
        return HuggingFaceTokenizer(read_json(chosen), [chosen, *extra, *beside], settings)
    return SentencePieceTokenizer(chosen, [chosen, *beside], settings)


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    settings: dict[str, Any] = {}
    if file.is_file():
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as e:
            raise JaxptError(f"{file} is not JSON: {e}") from e
    template = folder / "chat_template.jinja"
    if template.is_file():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    return settings
