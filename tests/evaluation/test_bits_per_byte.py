"""Bits per byte equal the sum over documents measured one by one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.evaluation.bits_per_byte import bits_per_byte
from jaxpt.evaluation.held_out import held_out, read_texts
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.forward import forward
from jaxpt.models.init import init_params

MODEL = ModelConfig(vocab_size=257, embed=16, heads=2, kv_heads=2, head_dim=8, mlp=32, layers=uniform_layers(2))
TEXTS = ["a line of text", "Grüße, 世界", "x", "", "a longer document that does not fit into one row of the table"]


class Bytes:
    """A tokenizer of bytes with BOS 256."""

    bos_id, eos_id = 256, None

    def encode_batch(self, texts):
        return [np.frombuffer(t.encode(), np.uint8).astype(np.int64) for t in texts]


def one_by_one(params, length):
    bits = 0.0
    for text in TEXTS:
        ids = np.concatenate([[256], np.frombuffer(text.encode(), np.uint8)])
        for i in range(0, len(ids) - 1, length - 1):
            window = jnp.asarray(ids[i : i + length])[None]
            logp = jax.nn.log_softmax(forward(MODEL, params, window))[0]
            bits -= float(jnp.take_along_axis(logp[:-1], window[0, 1:, None], -1).sum()) / math.log(2)
    return bits / sum(len(t.encode()) for t in TEXTS)


@pytest.mark.parametrize("length", [8, 24])
def test_packed_documents_measure_as_each_alone(length):
    params = jax.tree.map(lambda x: x * 3, init_params(MODEL, 0))
    sets = {"mixed": held_out(TEXTS, Bytes(), length, 4)}
    got = bits_per_byte(MODEL, sets, Compute())(params)
    assert got["mixed"] == pytest.approx(one_by_one(params, length), rel=1e-5)


def test_every_byte_is_predicted_once():
    held = held_out(TEXTS, Bytes(), 8, 4)
    assert held.batches["loss_weights"].sum() == held.bytes == sum(len(t.encode()) for t in TEXTS)
    assert held.documents == 4


def test_no_text_is_an_error_naming_the_set():
    with pytest.raises(JaxptError, match=r"code\.jsonl: there is no text"):
        held_out([""], Bytes(), 8, 4, "code.jsonl")


def test_a_document_without_text_is_left_out_and_one_of_another_kind_refused(tmp_path):
    file = tmp_path / "held_out.jsonl"
    file.write_text('{"text": "abc"}\n{"text": null}\n')
    assert read_texts(str(file)) == ["abc", ""]
    file.write_text('{"text": "abc"}\n{"text": 7}\n')
    with pytest.raises(JaxptError, match=r"held_out\.jsonl: the field 'text' of a document is a int"):
        read_texts(str(file))
