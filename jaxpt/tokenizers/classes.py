"""What a `tokenizer_class` means by itself: the special tokens that transformers gives it where the files name none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The names of special tokens in the order in which transformers adds them to a vocabulary that lacks them.
NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

_END = "<|endoftext|>"
_LLAMA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_ROBERTA = {**_LLAMA, "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}


@dataclass(frozen=True)
class TokenizerClass:
    """`special` is the text of each special token by its name; the defaults of transformers 5."""

    special: Mapping[str, str]


CLASSES = {
    "GPT2Tokenizer": TokenizerClass({"bos": _END, "eos": _END, "unk": _END}),
    "Qwen2Tokenizer": TokenizerClass({"eos": _END, "unk": _END, "pad": _END}),
    "GPTNeoXTokenizer": TokenizerClass({"bos": _END, "eos": _END, "unk": _END, "pad": "<|padding|>"}),
    "RobertaTokenizer": TokenizerClass(_ROBERTA),
    "LlamaTokenizer": TokenizerClass(_LLAMA),
    "GemmaTokenizer": TokenizerClass(
        {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    ),
}

# The class of a directory whose config.json names only the model.
CLASS_OF_MODEL = {
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "gptj": "GPT2Tokenizer",
    "opt": "GPT2Tokenizer",
    "phi": "GPT2Tokenizer",
    "starcoder2": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "llama": "LlamaTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
}

PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")  # say nothing besides what the files say


def class_name(settings: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> str | None:
    """Returns the tokenizer class of a directory without its `Fast`; None where nothing names one.

    Args:
        settings: of `tokenizer_config.json`.
        config: of `config.json`, which names a class, or a model that has one.
    """
    config = config or {}
    for name in (settings.get("tokenizer_class"), config.get("tokenizer_class")):
        if isinstance(name, str) and name:
            return name if name in PLAIN else name.removesuffix("Fast")
    return CLASS_OF_MODEL.get(str(config.get("model_type")))


def special_texts(settings: Mapping[str, Any], name: str | None) -> dict[str, str | None]:
    """Returns the text of each special token: as the settings name it, else as the class does, None where neither does.

    Args:
        settings: of `tokenizer_config.json`; a token that is null there is none.
        name: as from `class_name`.
    """
    usual = CLASSES[name].special if name in CLASSES else {}
    out: dict[str, str | None] = {}
    for n in NAMES:
        value = settings.get(f"{n}_token", usual.get(n))
        value = value.get("content") if isinstance(value, Mapping) else value
        out[n] = value if isinstance(value, str) else None
    return out
