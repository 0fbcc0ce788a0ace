"""Hugging Face directories and bundles by strangers: nothing is built, followed or waited for that is not there."""

import json
import os
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxpt.bundles import open_bundle
from jaxpt.errors import JaxptError
from jaxpt.interop import import_bundle, load_hf
from jaxpt.interop.safetensors_file import SafetensorsFile
from tests.interop.made import edit, hf_directory


def refused(folder, message, family="llama"):
    began = time.monotonic()
    with pytest.raises(JaxptError) as error:
        load_hf(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    assert time.monotonic() - began < 5


CONFIGS = {
    "asks for num_hidden_layers: 1000000000, more than the": {"num_hidden_layers": 10**9},
    "asks for num_hidden_layers: 1000000, more than the": {"num_hidden_layers": 10**6},
    "num_hidden_layers=1000000000.0: it must be a whole number": {"num_hidden_layers": 1e9},
    "it must be below 2^31": {"hidden_size": 10**30},
    "is not read": {"model_type": ["llama"] * 1000},
    "architecture": {"architectures": [["x" * 10**6]]},
    "layer_types": {"layer_types": ["x"] * 10**5},
    "jaxpt does not know this key": {"extra": "x" * 10**6},
}


@pytest.mark.parametrize("message", CONFIGS)
def test_a_config_that_its_tensors_do_not_bear_out_is_refused_before_anything_is_built(tmp_path, message):
    hf = hf_directory(tmp_path)
    edit(hf, **CONFIGS[message])
    refused(hf, message)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(tmp_path, value):
    hf = hf_directory(tmp_path)
    edit(hf, rms_norm_eps=value)
    refused(hf, "which is no number")


def test_more_experts_than_tensors_are_refused(tmp_path):
    hf = hf_directory(tmp_path, "moe")
    edit(hf, num_experts=10**9)
    refused(hf, "layers of experts")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json"])
def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path, name):
    hf = hf_directory(tmp_path)
    (hf / name).unlink(missing_ok=True)
    os.mkfifo(hf / name)
    refused(hf, "it is a pipe, not a regular file")


@pytest.mark.parametrize("name", ["model.safetensors", "chat_template.jinja", "tokenizer.model"])
def test_a_link_out_of_the_directory_is_neither_read_nor_copied(tmp_path, name):
    hf = hf_directory(tmp_path)
    (tmp_path / "secret").write_text("{{ secret }}")
    if name == "chat_template.jinja":
        (hf / "tokenizer.json").write_text(TOKENIZER % "1")
    (hf / name).unlink(missing_ok=True)
    (hf / name).symlink_to(tmp_path / "secret")
    with pytest.raises(JaxptError, match="a link out of its directory"):
        import_bundle(hf, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


TOKENIZER = '{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0,"b":%s},"unk_token":"a"}}'


def test_an_id_far_beyond_the_tokens_is_refused(tmp_path):
    hf = hf_directory(tmp_path)
    (hf / "tokenizer.json").write_text(TOKENIZER % "4294967294")
    refused(hf, "has 2 tokens and one with the id 4,294,967,294")


SETTINGS = {
    "bos_token is ['<s>'], it must be the token's text": {"bos_token": ["<s>"]},
    "added_tokens_decoder is ['<s>'], it must be tokens by their ids": {"added_tokens_decoder": ["<s>"]},
    "chat_template is [['a']], it must be a template": {"chat_template": [["a"]]},
}


@pytest.mark.parametrize("message", SETTINGS)
def test_lists_where_names_are_due_are_refused(tmp_path, message):
    hf = hf_directory(tmp_path)
    (hf / "tokenizer.json").write_text(TOKENIZER % "1")
    (hf / "tokenizer_config.json").write_text(json.dumps(SETTINGS[message]))
    refused(hf, message)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_that_are_no_numbers_are_named(tmp_path, value, dtype):
    import ml_dtypes

    hf = hf_directory(tmp_path)
    tensors = load_file(hf / "model.safetensors")
    as_stored = np.dtype(getattr(ml_dtypes, dtype, dtype))
    tensors = {k: v.astype(as_stored) for k, v in tensors.items()}
    save_file(tensors, hf / "model.safetensors")
    load_hf(hf)
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], value)
    save_file(tensors, hf / "model.safetensors")
    refused(hf, "the tensor model.norm.weight holds NaN or infinite numbers")


def header(path, text):
    path.write_bytes(len(text).to_bytes(8, "little") + text)


HEADERS = {
    "has the key 'a' more than once": b'{"a": {}, "a": {}}',
    "is nested without end": b"[" * 100_000,
    "has 100,000 dimensions": json.dumps(
        {"a": {"dtype": "F32", "shape": [9] * 10**5, "data_offsets": [0, 0]}}
    ).encode(),
    "a number of 400 digits": b'{"a": {"dtype": "F32", "shape": [' + b"9" * 400 + b'], "data_offsets": [0, 0]}}',
}


@pytest.mark.parametrize("message", HEADERS)
def test_a_header_of_weights_is_read_as_strictly(tmp_path, message):
    header(tmp_path / "model.safetensors", HEADERS[message])
    with pytest.raises(JaxptError, match=message) as error:
        SafetensorsFile(tmp_path / "model.safetensors")
    assert len(str(error.value)) < 400


def test_a_header_longer_than_any_is_not_read(tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write((2**37).to_bytes(8, "little"))
        file.truncate(2**38)  # takes no room on the disk
    with pytest.raises(JaxptError, match="a header of 137,438,953,472 bytes"):
        SafetensorsFile(tmp_path / "model.safetensors")


BUNDLES = {
    "model.json has 1000000000 layers and digests of": ('"count": 3', '"count": 1000000000'),
    "holds NaN, which is no number": ('"norm_eps": 1e-05', '"norm_eps": NaN'),
    "has the key 'format' more than once": ("{", '{"format": 2, "format": 2, '),
}


def as_a_stranger_writes_it(bundle, old, new):
    """Changes model.json and makes its digest again."""
    from jaxpt.files.digests import write_files

    text = (bundle / "model.json").read_text()
    layers = json.loads(text)["config"]["layers"]
    old = old.replace("3", str(layers[0]["count"])) if "count" in old else old
    assert old in text
    write_files(bundle, {"model.json": text.replace(old, new, 1).encode()})


@pytest.mark.parametrize("message", BUNDLES)
def test_a_bundle_is_compared_with_what_is_in_it_before_it_is_built(tmp_path, message):
    bundle = import_bundle(hf_directory(tmp_path), tmp_path / "b")
    open_bundle(bundle)
    as_a_stranger_writes_it(bundle, *BUNDLES[message])
    with pytest.raises(JaxptError, match=message):
        open_bundle(bundle)


def test_a_pipe_or_a_link_anywhere_in_a_bundle_is_refused(tmp_path):
    bundle = import_bundle(hf_directory(tmp_path), tmp_path / "b")
    chunk = next(p for p in (bundle / "params").rglob("*") if p.is_file() and p.name != "zarr.json")
    content = chunk.read_bytes()
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(JaxptError, match="it is a pipe, not a regular file"):
        open_bundle(bundle)
    chunk.unlink()
    (tmp_path / "chunk").write_bytes(content)
    chunk.symlink_to(tmp_path / "chunk")
    with pytest.raises(JaxptError, match="a link out of its directory"):
        open_bundle(bundle)
