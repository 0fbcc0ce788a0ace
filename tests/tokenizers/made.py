"""Small tokenizers in every form that a directory can have, trained on a few lines."""

import json
import shutil

import sentencepiece
import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxpt.tokenizers import load
from jaxpt.tokenizers.slow import QWEN2_SPLIT

LINES = [
    "def f(x):\n    return x + 12345  # two  spaces\n",
    "naïve café, cafe\u0301 中文没有空格 🙂 It's 2019 and 2020, they'll pay 1,299.50",
    "numbers 12345 and\ttabs; HELLO hello Hello\n\n\nend of 100 200 300 lines\r\n",
    " leading spaces and <tags> [INST] text // path/to/file_name.py ();\n};\n",
] * 20
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# What must not differ: spaces at the ends and around control tokens, numbers, contractions, line breaks, NFD.
TEXTS = [
    *LINES[:4],
    "",
    " ",
    "  two spaces first",
    "It's 1234567 cafe\u0301s\r\n\r\n\tx",
    "<|im_start|>user\nhi 12<|im_end|>\n<|im_start|> assistant",
    "a<|endoftext|>b <|endoftext|> c",
    "<s>[INST] hi [/INST] yes </s><s> again",
    "<s>hi</s>you</s></s>  all<s>",
    "<s>\nhi</s>\t",
]

ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LSTRIP = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False}
QWEN = {"tokenizer_class": "Qwen2Tokenizer"}
LLAMA = {"tokenizer_class": "LlamaTokenizer"}


def train_bpe(size=420, split=None, special=("<|endoftext|>",), normalizer=None):
    """A byte-level BPE of the `tokenizers` library; `split` is a pre-tokenizer, None GPT-2's."""
    inner = hf.Tokenizer(models.BPE())
    inner.pre_tokenizer = split or pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if normalizer is not None:
        inner.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet)
    inner.train_from_iterator(LINES, trainer)
    return inner


def qwen2_split():
    """The pre-tokenizer of Qwen 2."""
    split = pre_tokenizers.Split(hf.Regex(QWEN2_SPLIT), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_qwen2(size=420):
    """A tokenizer as Qwen 2 has it, its control tokens behind the vocabulary."""
    inner = train_bpe(size, qwen2_split(), special=(), normalizer=normalizers.NFC())
    inner.add_special_tokens(CHAT)
    return inner


def write_slow(folder, inner, config=None, **files):
    """`vocab.json` and `merges.txt` of a BPE in `folder`, with tokenizer_config.json where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    model = json.loads(inner.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    pairs = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
    return write_beside(folder, config, **files)


def write_json(folder, inner, config=None, **files):
    """`tokenizer.json` in `folder`, with tokenizer_config.json where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    return write_beside(folder, config, **files)


def write_beside(folder, config=None, **files):
    """Files beside a vocabulary; a keyword `added_tokens` is `added_tokens.json`."""
    for name, value in {**({"tokenizer_config": config} if config is not None else {}), **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def train_sentencepiece(folder, size=400, **changes):
    """`tokenizer.model` in `folder`, as Llama's: BPE, bytes as fallback, a space put before the text."""
    folder.mkdir(parents=True, exist_ok=True)
    how = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", **changes}
    how = {"remove_extra_whitespaces": False, "character_coverage": 0.99, **how}
    lines = [part for line in LINES for part in line.split("\n") if part.strip()]
    prefix = str(folder / "tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=prefix,
        vocab_size=size,
        minloglevel=2,
        hard_vocab_limit=False,
        **how,
    )
    (folder / "tokenizer.vocab").unlink()
    return folder


def with_bos(inner, token):
    """Lets the post-processor put `token` before a text."""
    i = inner.token_to_id(token)
    inner.post_processor = processors.TemplateProcessing(f"{token} $A", special_tokens=[(token, i)])
    return inner


def decoder(first, texts=CHAT, **flags):
    """`added_tokens_decoder` of special tokens from an id on."""
    return {str(first + i): {"content": t, "special": True, "normalized": False, **flags} for i, t in enumerate(texts)}


def size(inner):
    return len(json.loads(inner.to_str())["model"]["vocab"])


def spm(model, folder, config, **files):
    shutil.copytree(model, folder)
    return write_beside(folder, config, **files)


def directories(folder, bpe, qwen, model):
    """(name, directory, class of transformers) of every form."""
    n, q, k = bpe.get_vocab_size(), size(qwen), load(model).vocab_size
    roberta = train_bpe(special=ROBERTA)
    base = decoder(0, ["<unk>", "<s>", "</s>"])
    qwen_added = {"added_tokens_decoder": decoder(q), "eos_token": "<|im_end|>", "extra_special_tokens": CHAT[1:]}
    prefix = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "pad_token": "<pad>"}
    fast_class, named = "PreTrainedTokenizerFast", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = {"tokenizer_class": fast_class}
    told = {**fast, "eos_token": "<|im_end|>", "added_tokens_decoder": decoder(n, CHAT[1:], lstrip=True)}
    added = {t: q + i for i, t in enumerate(CHAT)}
    return [
        ("slow GPT-2", write_slow(folder / "a", bpe, {"tokenizer_class": "GPT2TokenizerFast"}), "GPT2Tokenizer"),
        ("slow GPT-2, padded", write_slow(folder / "b", bpe, prefix), "GPT2Tokenizer"),
        ("slow Qwen 2", write_slow(folder / "c", qwen, {**QWEN, **qwen_added}), "Qwen2Tokenizer"),
        ("added_tokens.json", write_slow(folder / "d", qwen, QWEN, added_tokens=added), "Qwen2Tokenizer"),
        ("a bare slow class", write_slow(folder / "e", qwen, QWEN), "Qwen2Tokenizer"),
        (
            "slow RoBERTa",
            write_slow(folder / "f", roberta, {"tokenizer_class": "RobertaTokenizer"}),
            "RobertaTokenizer",
        ),
        (
            "a mask that takes the space before it",
            write_slow(folder / "g", roberta, {"tokenizer_class": "RobertaTokenizer", "mask_token": LSTRIP}),
            "RobertaTokenizer",
        ),
        (
            "Llama, added",
            spm(model, folder / "h", {**LLAMA, "added_tokens_decoder": base | decoder(k)}),
            "LlamaTokenizer",
        ),
        (
            "Llama, legacy",
            spm(model, folder / "i", {**LLAMA, "legacy": True, "added_tokens_decoder": base | decoder(k)}),
            "LlamaTokenizer",
        ),
        ("Llama, a pad it lacks", spm(model, folder / "j", {**LLAMA, "pad_token": "<pad>"}), "LlamaTokenizer"),
        (
            "a .model, added",
            spm(model, folder / "k", {**fast, "added_tokens_decoder": base | decoder(k)}),
            "PreTrainedTokenizerFast",
        ),
        (
            "a .model without legacy, added",
            spm(model, folder / "p", {**fast, "legacy": False}, added_tokens={t: k + i for i, t in enumerate(CHAT)}),
            "PreTrainedTokenizerFast",
        ),
        (
            "a RoBERTa that begins with another token than its BOS",
            write_slow(folder / "q", roberta, {"tokenizer_class": "RobertaTokenizer", "bos_token": "<mask>"}),
            "RobertaTokenizer",
        ),
        ("a json, added", write_json(folder / "l", bpe, told), "PreTrainedTokenizerFast"),
        (
            "a json, an eos it lacks",
            write_json(folder / "m", bpe, {**fast, "eos_token": "<|im_end|>", "bos_token": "<|endoftext|>"}),
            "PreTrainedTokenizerFast",
        ),
        (
            "a json whose token is told otherwise beside it",
            write_json(folder / "o", bpe, {**fast, "added_tokens_decoder": decoder(0, CHAT[:1], lstrip=True)}),
            "PreTrainedTokenizerFast",
        ),
        ("a json of a bare class", write_json(folder / "n", qwen, QWEN), "Qwen2Tokenizer"),
        ("Llama", spm(model, folder / "r", {**LLAMA, **named}), "LlamaTokenizer"),
        ("Llama, legacy alone", spm(model, folder / "s", {**LLAMA, **named, "legacy": True}), "LlamaTokenizer"),
        ("Llama, no space", spm(model, folder / "t", {**LLAMA, "add_prefix_space": False}), "LlamaTokenizer"),
        ("a .model", spm(model, folder / "u", {**fast, **named}), "PreTrainedTokenizerFast"),
        ("a .model without legacy", spm(model, folder / "v", {**fast, **named, "legacy": False}), fast_class),
    ]
