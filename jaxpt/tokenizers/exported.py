"""A tokenizer for other libraries: one `tokenizer.json` that says all, so that transformers gives the ids that jaxpt
gives, BOS included."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from jaxpt.tokenizers.classes import NAMES, PLAIN, special_texts
from jaxpt.tokenizers.convert import as_sentencepiece_splits, read_proto
from jaxpt.tokenizers.fingerprints import same_tokens
from jaxpt.tokenizers.huggingface import HuggingFaceTokenizer, bpe_of
from jaxpt.tokenizers.interface import FLAGS, Tokenizer
from jaxpt.tokenizers.sentencepiece import SentencePieceTokenizer
from jaxpt.tokenizers.slow import SPLITS

# Their content stands in tokenizer.json; beside it transformers would read them another time.
_SAID = ("added_tokens.json", "special_tokens_map.json", "vocab.json", "merges.txt")
FORCED = {"qwen2": "Qwen2Tokenizer"}  # what transformers takes for a model type, whatever the files say
_FLAGS = ("content", *FLAGS, "normalized", "special")


def exported_files(tokenizer: Tokenizer) -> dict[str, bytes] | None:
    """Returns the files of a tokenizer for export by name, None where no `tokenizer.json` encodes exactly as it does.

    `tokenizer_config.json` names the class that takes `tokenizer.json` as it stands: others build their own splitting
    and leave `add_bos_token` aside. Chat templates stay where they were.
    """
    files = tokenizer.contents()
    if isinstance(tokenizer, SentencePieceTokenizer):
        made = HuggingFaceTokenizer(as_sentencepiece_splits(read_proto(tokenizer.files[0])), tokenizer.files, {})
        if not same_tokens(made, tokenizer):
            return None
        inner, name = made.inner, None
    else:
        assert isinstance(tokenizer, HuggingFaceTokenizer)
        inner, name = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str()), tokenizer.name
    named = {f"{n}_token": text for n, text in special_texts(tokenizer.settings, name).items()}
    named |= {k: text or None for k, text in tokenizer.special_texts.items()}
    there = {t.content for t in inner.get_added_tokens_decoder().values()}
    inner.add_special_tokens([t for t in named.values() if t is not None and t not in there])
    _set_ends(inner, tokenizer)
    files = {n: content for n, content in files.items() if n not in _SAID}
    if "tokenizer.json" not in files or json.loads(inner.to_str()) != json.loads(files["tokenizer.json"]):
        files["tokenizer.json"] = inner.to_str(pretty=True).encode()
    config = _config(tokenizer, inner, named, json.loads(files.get("tokenizer_config.json", b"{}")))
    files["tokenizer_config.json"] = json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"
    return files


def splits_alike(files: Mapping[str, bytes], model_type: object) -> bool:
    """Whether transformers follows an exported `tokenizer.json` for a model of this type.

    For a few types transformers 5 takes one class, whatever `tokenizer_config.json` says; of the families here
    that is Qwen 2, whose text it splits as Qwen 2 does.
    """
    if model_type not in FORCED or "tokenizer.json" not in files:
        return True
    described = json.loads(files["tokenizer.json"])
    where = [Path("tokenizer.json")]
    if described["model"].get("type") != "BPE":
        return False
    told = HuggingFaceTokenizer(tokenizers.Tokenizer.from_str(json.dumps(described)), where, {}, PLAIN[0])
    inner = tokenizers.Tokenizer(bpe_of(described["model"]))
    SPLITS[FORCED[str(model_type)]](inner, False)
    inner.add_tokens([t for _, t in sorted(told.inner.get_added_tokens_decoder().items())])
    return same_tokens(HuggingFaceTokenizer(inner, where, {}, PLAIN[0]), told)


def _set_ends(inner: tokenizers.Tokenizer, tokenizer: Tokenizer) -> None:
    """Lets the post-processor put around a text what jaxpt puts around a prompt: BOS or nothing, and no EOS."""
    plain = inner.encode("a", add_special_tokens=False).ids
    wanted = [*([tokenizer.bos_id] if tokenizer.adds_bos else []), *plain]
    if inner.encode("a", add_special_tokens=True).ids == wanted:
        return
    bos = tokenizer.special_texts["bos_token"]
    first = [bos] if tokenizer.adds_bos else []
    inner.post_processor = processors.TemplateProcessing(
        single=[*first, "$A"],
        pair=[*first, "$A", *(f"{t}:1" for t in first), "$B:1"],
        special_tokens=[(bos, tokenizer.bos_id)] if first else [],
    )


def _config(
    tokenizer: Tokenizer, inner: tokenizers.Tokenizer, named: dict[str, str | None], before: dict[str, Any]
) -> dict[str, Any]:
    added = {
        str(i): {flag: getattr(token, flag) for flag in _FLAGS}
        for i, token in sorted(inner.get_added_tokens_decoder().items())
    }
    left = {k: v for k, v in tokenizer.settings.items() if k not in {f"{n}_token" for n in NAMES}}
    left |= {"chat_template": before.get("chat_template")}
    told = {
        **{k: v for k, v in left.items() if v is not None and k != "auto_map"},
        **named,
        "added_tokens_decoder": added,
        "add_bos_token": tokenizer.adds_bos,
        "add_eos_token": False,
        "tokenizer_class": PLAIN[0],
    }
    return told
