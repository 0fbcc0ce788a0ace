"""A SentencePiece model as a `tokenizers` tokenizer: for tokens added beside it, and for export."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from jaxpt.errors import JaxptError

_MODEL_PROTO: Any = vars(sentencepiece_model_pb2)["ModelProto"]  # made when the module is imported
UNIGRAM, BPE = 1, 2  # ModelProto.TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # ModelProto.SentencePiece.Type
UNREACHED = -1e4


def read_proto(model: Path) -> Any:
    """Returns the message of a SentencePiece `.model`.

    Raises:
        JaxptError: it is none, or of a kind (word, char) that has no counterpart.
    """
    proto = _MODEL_PROTO()
    try:
        proto.ParseFromString(model.read_bytes())
    except Exception as e:  # protobuf's own error, which is private to it
        raise JaxptError(f"{model} is not a SentencePiece model (truncated or another format)") from e
    if proto.trainer_spec.model_type not in (UNIGRAM, BPE):
        raise JaxptError(f"{model} is neither BPE nor unigram; only these have a tokenizer.json")
    return proto


def puts_a_space(proto: Any) -> bool:
    """Whether the model puts a space before a text."""
    return bool(proto.normalizer_spec.add_dummy_prefix)


def is_llamas(proto: Any) -> bool:
    """Whether a model is of the kind that a `LlamaTokenizer` reads: BPE, with bytes for unknown characters."""
    return bool(proto.trainer_spec.model_type == BPE and proto.trainer_spec.byte_fallback)


def spaces_differ(settings: Mapping[str, Any], name: str | None) -> bool:
    """Whether transformers puts spaces before other parts of a text than the SentencePiece library does.

    That puts one before every text, and so before each part between control tokens, also one that begins with a space.
    A `LlamaTokenizer` never adds to a space, and unless `legacy` is true it gives one to the beginning of the whole
    text alone; of other classes `legacy` false does the same.

    Args:
        settings: of `tokenizer_config.json`.
        name: the tokenizer's class, as from `class_name`.
    """
    return name == "LlamaTokenizer" or settings.get("legacy") is False


def as_sentencepiece_splits(proto: Any, legacy: bool = True) -> tokenizers.Tokenizer:
    """Returns a tokenizer that encodes as SentencePiece does (transformers 5, `build_tokenizer_from_spm_proto`).

    Args:
        proto: of the model.
        legacy: every part of a text between added tokens gets a space, as the model puts one before a text; False: only
            the first part, where it does not begin with one.
    """
    spec = proto.normalizer_spec
    inner = tokenizers.Tokenizer(_bpe(proto) if proto.trainer_spec.model_type == BPE else _unigram(proto))
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.escape_whitespaces:
        steps.append(normalizers.Replace(" ", "▁"))
    if (
        spec.add_dummy_prefix and legacy
    ):  # Metaspace leaves it out where a text begins with one already, SentencePiece does not
        steps.append(normalizers.Replace(Regex(r"\A▁"), "▁▁"))
    inner.normalizer = normalizers.Sequence(steps)
    splits: list[Any] = []
    if spec.add_dummy_prefix:
        scheme = "always" if legacy else "first"
        splits.append(pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False))
    if own := [p.piece for p in proto.pieces if p.type == USER_DEFINED]:  # whole, and never merged
        pattern = "|".join(re.escape(p) for p in sorted(own, key=len, reverse=True))
        splits.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    if splits:
        inner.pre_tokenizer = pre_tokenizers.Sequence(splits)
    last = [decoders.Strip(content=" ", left=1)] if spec.add_dummy_prefix else []
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    _add_control(inner, proto)
    return inner


def as_llama_splits(proto: Any, settings: Mapping[str, Any], model: Path) -> tokenizers.Tokenizer:
    """Returns the tokenizer that transformers 5 makes of `tokenizer.model` for a `LlamaTokenizer`.

    Args:
        proto: of the model.
        settings: of `tokenizer_config.json`: `legacy` gives every part between added tokens a space of its own,
            `add_prefix_space` is whether a text gets one.
        model: the file, for errors.

    Raises:
        JaxptError: not BPE with bytes for unknown characters, which transformers would drop.
    """
    if proto.trainer_spec.model_type != BPE:
        raise JaxptError(f"{model} is a unigram model, a LlamaTokenizer is BPE; set its tokenizer_class")
    if not proto.trainer_spec.byte_fallback:
        raise JaxptError(f"{model} has no pieces for bytes, a LlamaTokenizer needs them; set its tokenizer_class")
    prefix = settings.get("add_prefix_space") is not False
    scheme = "never" if not prefix else "always" if settings.get("legacy") is True else "first"
    inner = tokenizers.Tokenizer(_bpe(proto))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    last = [decoders.Strip(content=" ", left=1)] if prefix else []
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    _add_control(inner, proto)
    return inner


def _bpe(proto: Any) -> models.BPE:
    """A merge for every split of a normal piece into two, by the piece's score."""
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    normal = {p.piece: (-p.score, i) for i, p in enumerate(proto.pieces) if p.type == NORMAL}
    ranked = [
        (*normal[piece], piece[:cut], piece[cut:])
        for piece in normal
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    merges = [(left, right) for _, _, left, right in sorted(ranked)]
    own = any(p.type == USER_DEFINED for p in proto.pieces)
    trained = proto.trainer_spec
    return models.BPE(
        vocab,
        merges,
        unk_token=trained.unk_piece,
        fuse_unk=True,
        byte_fallback=trained.byte_fallback,
        ignore_merges=own,
    )


def _unigram(proto: Any) -> models.Unigram:
    """Byte pieces get a score that no text takes: SentencePiece never reads `<0x41>` as the byte, the library would."""
    scores = [(p.piece, UNREACHED if p.type == BYTE else p.score) for p in proto.pieces]
    return models.Unigram(scores, proto.trainer_spec.unk_id, proto.trainer_spec.byte_fallback)


def _add_control(inner: tokenizers.Tokenizer, proto: Any) -> None:
    """Control pieces are special, and so is the unknown one."""
    kinds = (CONTROL, UNKNOWN)
    inner.add_special_tokens([AddedToken(p.piece, normalized=False) for p in proto.pieces if p.type in kinds])
