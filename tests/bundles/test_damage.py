"""Whatever is damaged in a bundle is noticed when it is opened or read, or does not matter."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.bundles import open_bundle, save_bundle
from jaxpt.errors import JaxptError
from jaxpt.files import digests
from jaxpt.models import Model, flatten
from jaxpt.models.specs import param_specs
from jaxpt.sharding import make_mesh, param_shardings
from jaxpt.tokenizers import train_sentencepiece
from tests.files.flips import assert_never_silent, outcomes
from tests.models.tiny import VARIANTS, random_params

LINEAGE = [{"op": "train", "tokens": 4096, "ledger": [{"name": "web", "start": 0, "stop": 512}]}]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    texts = [f"the quick brown fox number {n} jumps over {n * 7} lazy dogs" for n in range(200)]
    return train_sentencepiece(texts, tmp_path_factory.mktemp("words") / "tokenizer.model", 300)


@pytest.fixture
def bundle(tmp_path, words):
    config = VARIANTS["llama"].replace(vocab_size=words.vocab_size)
    return save_bundle(Model(config, random_params(config), words, tuple(LINEAGE)), tmp_path / "b")


def everything(path):
    opened = open_bundle(path)
    words = opened.tokenizer()
    params = {leaf: value.tobytes() for leaf, value in flatten(opened.params()).items()}
    return opened.config.to_dict(), opened.lineage, opened.dtypes, words.fingerprint, words.chat_template, params


@pytest.mark.parametrize(("name", "every"), [("model.json", 41), ("lineage.json", 1), ("digests.json", 41)])
def test_damage_to_a_small_file_is_noticed_or_harmless(bundle, name, every):
    assert_never_silent(outcomes(bundle / name, lambda: everything(bundle), every))


def test_damage_to_the_tokenizer_is_noticed(bundle):
    for file in sorted((bundle / "tokenizer").iterdir()):
        assert_never_silent(outcomes(file, lambda: everything(bundle), max(1, file.stat().st_size // 60)))


def test_damage_to_what_describes_an_array_is_noticed(bundle):
    for leaf in ("final_norm", "blocks/dense/q"):
        assert_never_silent(outcomes(bundle / "params" / leaf / "zarr.json", lambda: everything(bundle), 3))


def test_damage_to_a_chunk_is_noticed(bundle):
    file = next(p for p in (bundle / "params/blocks/dense/up/c").rglob("*") if p.is_file())
    assert_never_silent(outcomes(file, lambda: everything(bundle), max(1, file.stat().st_size // 40)))


def test_without_digests_damage_is_silent(bundle, monkeypatch):  # the proofs above can fail
    before_there_were_digests(bundle)
    counts = outcomes(bundle / "lineage.json", lambda: everything(bundle), 1)
    assert any(what.endswith("silent") for what in counts)


@pytest.mark.parametrize(
    ("file", "before", "now"),
    [
        ("model.json", '"theta": 10000.0', '"theta": 10001.0'),
        ("lineage.json", '"stop": 512', '"stop": 502'),
        ("lineage.json", '"tokens": 4096', '"tokens": 4090'),
    ],
)
def test_a_changed_digit_is_refused(bundle, file, before, now):
    text = (bundle / file).read_text()
    assert text.count(before) == 1
    (bundle / file).write_text(text.replace(before, now))
    with pytest.raises(JaxptError, match=rf"{file} is damaged: it is not what digests.json says; restore it"):
        open_bundle(bundle)


def test_two_chunks_that_changed_places_are_noticed(bundle):
    """Each has a checksum that is right for what it holds."""
    chunks = sorted(p for p in (bundle / "params/blocks/dense/up/c").rglob("*") if p.is_file())
    one, other = chunks[0].read_bytes(), chunks[1].read_bytes()
    chunks[0].write_bytes(other)
    chunks[1].write_bytes(one)
    opened = open_bundle(bundle)
    with pytest.raises(JaxptError, match="up, layer 0: its values are not what was written"):
        opened.params()
    with pytest.raises(JaxptError, match="up, layer 1: its values are not what was written"):
        opened.read("blocks/dense/up", 1)
    mesh = make_mesh({"fsdp": 2}, jax.devices()[:2])
    with pytest.raises(JaxptError, match="up, layer 0: its values are not what was written"):
        opened.params(dtype="float32", shardings=param_shardings(param_specs(opened.config), mesh))


def test_a_cast_onto_a_mesh_is_checked_before_it(tmp_path):
    config = VARIANTS["llama"].replace(vocab_size=64)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_params(config))
    save_bundle(Model(config, half), tmp_path / "b")
    where = param_shardings(param_specs(config), make_mesh({"fsdp": 2}, jax.devices()[:2]))
    got = flatten(open_bundle(tmp_path / "b").params(dtype="float32", shardings=where))
    for leaf, value in flatten(half).items():
        assert got[leaf].dtype == jnp.float32
        assert got[leaf].sharding == flatten(where)[leaf]
        np.testing.assert_array_equal(got[leaf], value.astype(jnp.float32))


def test_digests_that_are_gone_are_missed(bundle):
    (bundle / "digests.json").unlink()
    with pytest.raises(JaxptError, match=r"digests\.json is missing, model\.json says that it must be there; restore"):
        open_bundle(bundle)


def test_a_file_that_was_put_beside_the_tokenizer_is_refused(bundle):
    (bundle / "tokenizer" / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(JaxptError, match=r"chat_template\.jinja was not written with the rest .*; remove it"):
        open_bundle(bundle).tokenizer()


def before_there_were_digests(bundle):
    """Makes a bundle what af7ccdc wrote."""
    facts = json.loads((bundle / "model.json").read_text())
    del facts["format"]
    (bundle / "model.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    (bundle / "digests.json").unlink()


def test_a_bundle_from_before_digests_opens_and_that_is_said_once(bundle, tmp_path, capsys, monkeypatch):
    whole = everything(bundle)
    before_there_were_digests(bundle)
    shutil.copytree(bundle, tmp_path / "c")
    monkeypatch.setattr(digests, "_reported", False)
    capsys.readouterr()
    assert everything(bundle) == whole == everything(tmp_path / "c")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "written by an earlier jaxpt: its small files carry no digests" in said[0]


def test_a_later_format_is_refused_by_its_number(bundle):
    facts = json.loads((bundle / "model.json").read_text())
    (bundle / "model.json").write_text(json.dumps({**facts, "format": 3}))
    digests.write_digests(bundle, ["model.json", "lineage.json"])
    with pytest.raises(JaxptError, match=r"model\.json: format 3 is not read by this jaxpt"):
        open_bundle(bundle)
