"""A model at rest comes back bit for bit, one slice at a time or on a mesh; damage is found, halves are never taken."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.bundles import BundleWriter, digest, open_bundle, save_bundle
from jaxpt.bundles.store import chunk_shape
from jaxpt.errors import JaxptError
from jaxpt.models import Model, flatten, param_specs
from jaxpt.models.specs import ParamSpec
from jaxpt.sharding import make_mesh, param_shardings
from tests.models.tiny import VARIANTS, random_params

pytestmark = pytest.mark.newest


def made(name="qwen3", dtype="float32"):
    c = VARIANTS[name]
    params = jax.tree.map(lambda x: x.astype(dtype), random_params(c))
    return Model(c, params, lineage=({"op": "made", "seed": 0},))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["gemma2", "olmo2"])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, name, dtype):
    model = made(name, dtype)
    save_bundle(model, tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    assert bundle.config == model.config
    assert bundle.lineage == [{"op": "made", "seed": 0}]
    for path, leaf in flatten(bundle.params()).items():
        want = np.asarray(flatten(model.params)[path])
        assert leaf.dtype == want.dtype
        np.testing.assert_array_equal(leaf, want, err_msg=path)
    bundle.verify()


def test_one_layer_and_one_part_are_read_alone(tmp_path):
    model = made()
    save_bundle(model, tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    q = np.asarray(model.params["blocks"]["dense"]["q"])
    np.testing.assert_array_equal(bundle.read("blocks/dense/q", 1), q[1])
    part = (slice(3, 7), slice(None), slice(0, 4))
    np.testing.assert_array_equal(bundle.read("blocks/dense/q", 2, part), q[2][part])
    files = [p for p in (tmp_path / "b/params/blocks/dense/q/c").rglob("*") if p.is_file()]
    assert len(files) == q.shape[0]  # a chunk is one layer


def test_restored_onto_a_mesh_each_device_reads_its_part(tmp_path):
    c = VARIANTS["llama"].replace(vocab_size=64, heads=4)
    model = Model(c, random_params(c))
    save_bundle(model, tmp_path / "b")
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    where = param_shardings(param_specs(c), mesh)
    got = open_bundle(tmp_path / "b").params(dtype="float32", shardings=where)
    for path, leaf in flatten(got).items():
        assert leaf.sharding == flatten(where)[path]
        np.testing.assert_array_equal(leaf, flatten(model.params)[path])
    save_bundle(Model(c, got), tmp_path / "c")  # and sharded arrays are written as they are
    assert open_bundle(tmp_path / "c").digests == open_bundle(tmp_path / "b").digests


def test_stored_digests_are_those_of_the_arrays_in_memory(tmp_path):
    model = made()
    save_bundle(model, tmp_path / "b")
    assert open_bundle(tmp_path / "b").digests == digest(model.params)


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    save_bundle(made(), tmp_path / "b")
    rng = np.random.default_rng(0)
    files = sorted(p for p in (tmp_path / "b/params").rglob("*") if p.is_file() and p.name != "zarr.json")
    for file in rng.choice(files, 12, replace=False):
        good = file.read_bytes()
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        file.write_bytes(bad)
        with pytest.raises(JaxptError, match="is damaged or incomplete"):
            open_bundle(tmp_path / "b").params()
        file.write_bytes(good)
    open_bundle(tmp_path / "b").params()


def test_a_truncated_or_missing_chunk_is_an_error_not_zeros(tmp_path):
    save_bundle(made(), tmp_path / "b")
    file = next(p for p in (tmp_path / "b/params/embed/table/c").rglob("*") if p.is_file())
    good = file.read_bytes()
    file.write_bytes(good[:-5])
    with pytest.raises(JaxptError, match="embed/table is damaged"):
        open_bundle(tmp_path / "b").params()
    file.unlink()
    with pytest.raises(JaxptError, match="embed/table is damaged"):
        open_bundle(tmp_path / "b").params()


def test_nothing_half_written_is_left_or_taken(tmp_path):
    model = made()
    with BundleWriter(tmp_path / "b", model.config) as writer:
        writer.write("final_norm", None, np.asarray(model.params["final_norm"]))
        with pytest.raises(JaxptError, match=r"not written: embed/table\[0\]"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []
    save_bundle(model, tmp_path / "b")
    (tmp_path / "b/lineage.json").unlink()
    with pytest.raises(JaxptError, match=r"is not a bundle: it has no lineage.json"):
        open_bundle(tmp_path / "b")


def test_experts_are_chunks_of_their_own_and_written_one_by_one(tmp_path):
    model = made("moe_mixed")
    save_bundle(model, tmp_path / "layers")
    specs = flatten(param_specs(model.config))
    with BundleWriter(tmp_path / "experts", model.config) as writer:
        for path, leaf in flatten(model.params).items():
            layers = range(leaf.shape[0]) if specs[path].stacked else [None]
            for layer in layers:
                value = np.asarray(leaf if layer is None else leaf[layer])
                if len(specs[path].pieces) < 2:
                    writer.write(path, layer, value)
                    continue
                for expert in reversed(range(value.shape[0])):
                    writer.write(path, layer, value[expert], expert)
        with pytest.raises(JaxptError, match=r"blocks/moe/expert_up\[1, 2\] is written twice"):
            writer.write("blocks/moe/expert_up", 1, value_of(model, "expert_up")[1, 2], 2)
        with pytest.raises(JaxptError, match="router: a stacked leaf is written layer by layer"):
            writer.write("blocks/moe/router", 0, value_of(model, "router")[0, 0], 0)
        writer.finish()
    one, other = open_bundle(tmp_path / "layers"), open_bundle(tmp_path / "experts")
    assert one.digests == other.digests == digest(model.params)
    gate = value_of(model, "expert_gate")
    np.testing.assert_array_equal(other.read("blocks/moe/expert_gate", 1, 3), gate[1, 3])
    files = [p for p in (tmp_path / "experts/params/blocks/moe/expert_gate/c").rglob("*") if p.is_file()]
    assert len(files) == gate.shape[0] * gate.shape[1]


def value_of(model, name):
    return np.asarray(model.params["blocks"]["moe"][name])


def test_an_expert_left_out_is_missed(tmp_path):
    model = made("moe")
    with BundleWriter(tmp_path / "b", model.config) as writer:
        for path, leaf in flatten(model.params).items():
            if path == "blocks/moe/expert_down":
                for i, e in np.ndindex(*leaf.shape[:2]):
                    if (i, e) != (2, 4):
                        writer.write(path, i, np.asarray(leaf[i, e]), e)
            elif path.startswith("blocks/"):
                for i in range(leaf.shape[0]):
                    writer.write(path, i, np.asarray(leaf[i]))
            else:
                writer.write(path, None, np.asarray(leaf))
        with pytest.raises(JaxptError, match=r"not written: blocks/moe/expert_down\[2, 4\]$"):
            writer.finish()


def test_mistakes_are_named(tmp_path):
    model = made()
    with BundleWriter(tmp_path / "b", model.config) as writer:
        with pytest.raises(JaxptError, match="blocks/dense/qq is not a parameter"):
            writer.write("blocks/dense/qq", 0, np.zeros(3, np.float32))
        with pytest.raises(JaxptError, match=r"final_norm: shape \(3,\), the model's is \(24,\)"):
            writer.write("final_norm", None, np.zeros(3, np.float32))
        with pytest.raises(JaxptError, match="dtype float64, declared as float32"):
            writer.write("final_norm", None, np.zeros(24))
    save_bundle(model, tmp_path / "b")
    with pytest.raises(JaxptError, match="exists; remove it"):
        save_bundle(model, tmp_path / "b")
    with pytest.raises(JaxptError, match="does not exist"):
        open_bundle(tmp_path / "none")
    facts = json.loads((tmp_path / "b/model.json").read_text())
    facts["config"]["embedd"] = 3
    del facts["format"]  # one that was written before there were digests
    (tmp_path / "b/digests.json").unlink()
    (tmp_path / "b/model.json").write_text(json.dumps(facts))
    with pytest.raises(JaxptError, match="did you mean 'embed'"):
        open_bundle(tmp_path / "b")
    odd = Model(model.config, {**model.params, "extra": jnp.zeros(2)})
    with pytest.raises(JaxptError, match="differ in extra"):
        save_bundle(odd, tmp_path / "c")


def test_a_large_slice_is_split_along_embed():
    table = ParamSpec((150_000, 2048), ("vocab", "embed"))
    rows, columns = chunk_shape(table, 2)
    assert rows == 150_000
    assert rows * columns * 2 <= 128 * 2**20
    assert chunk_shape(ParamSpec((32, 64, 128), ("layers", "embed", "mlp")), 4) == (1, 64, 128)
