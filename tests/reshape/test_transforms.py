"""Transforms by name: each file is one, options are its own, old forms are translated, one of the user's own works."""

import dataclasses
import importlib
import pkgutil
import re
import shlex
import textwrap
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import jaxpt.reshape as room
from jaxpt.bundles import open_bundle, save_bundle
from jaxpt.cli import main
from jaxpt.commands import reshape as command
from jaxpt.config import schema
from jaxpt.config.choice import find, names
from jaxpt.config.file import load
from jaxpt.errors import JaxptError
from jaxpt.models import Model, flatten
from jaxpt.reshape.config import ReshapeConfig
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.target import Target
from jaxpt.reshape.transform import ALL_OPTIONS_THEN, Transform
from jaxpt.reshape.transforms.merge_kv import MergeKv
from jaxpt.reshape.transforms.subclone import Subclone
from tests.models.tiny import VARIANTS
from tests.reshape.proofs import random_params

THEN = ["average_experts", "drop_layers", "grow_depth", "grow_width", "merge_kv", "prune_depth", "random_init",
        "subclone", "upcycle"]  # fmt: skip
OWN = '''
"""A transform that lies outside jaxpt."""

from dataclasses import dataclass

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.reshape import scale
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class Louder(Transform):
    """Multiplies what normalises the stream."""

    factor: float = option(2.0, "of every gain along embed")

    def check(self, config, setting):
        if self.factor == 0:
            raise JaxptError("config.transforms: louder by 0 is silence; give another factor")

    def rewrites(self, source, setting):
        rewrite = scale(source.config, "embed", gain=self.factor)
        return [rewrite.with_entry(op="louder", tokens=0, flops=0.0)]
'''
CONFIG = """
def get_config():
    return {{"transforms": [{{"name": {name!r}{options}}}]}}
"""


def built(*transforms, **more):
    return schema.build(ReshapeConfig, {"transforms": list(transforms), **more}).transforms


def all_options(name, **stated):
    """A transform as b398682 stored it: with all options of all transforms."""
    return {"name": name, **ALL_OPTIONS_THEN, "drop": [], "layers": [], **stated}


def test_every_file_of_the_room_is_a_transform_and_none_of_then_is_lost():
    files = {p.stem for p in Path("jaxpt/reshape/transforms").glob("*.py")} - {"__init__"}
    assert files == set(names(Transform))
    assert set(THEN) <= files
    for name in files:
        cls = find(Transform, name, "config.transforms[0].name")
        assert cls.__doc__
        assert all(field.metadata["doc"] for field in dataclasses.fields(cls)), name


@pytest.mark.parametrize("name", [name for name in THEN if name != "upcycle"])
def test_options_of_all_transforms_at_the_values_they_had_are_left_out(name):
    assert built(all_options(name)) == built({"name": name})


def test_what_was_said_then_is_still_said():
    (merge,) = built(all_options("merge_kv", how="select"))
    assert merge == MergeKv(how="select")
    mixture = {"experts": 4, "experts_per_token": 2}
    (upcycle,) = built(all_options("upcycle", mixture=mixture, layers=[1], every=2))
    assert (upcycle.mixture.experts, upcycle.layers, upcycle.every) == (4, (1,), 2)
    (subclone,) = built(all_options("subclone", depth="middle", ridge=1e-2))
    assert subclone == Subclone(depth="middle", ridge=1e-2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "subclone", "selecton": "uniform"}, r"transforms\[0\]\.selecton is not a key.*'selection'"),
        ({"name": "subclone", "noise": 0.1}, r"transforms\[0\]\.noise is not a key"),  # of grow_width
        ({"name": "subclon"}, r"transforms\[0\]\.name is 'subclon'.*'subclone'"),
        ({"name": "grow_width", "how": "stack"}, r"transforms\[0\]\.how is 'stack', it must be one of pad"),
        ({"name": "upcycle"}, "mixture must be given"),
        ({"name": "subclone", "compensate": True, "scaling": "fan_in"}, "scaling is 'fan_in', but with compensate"),
        ({}, r"transforms\[0\] lacks name; known: average_experts"),
    ],
)
def test_an_option_that_a_transform_does_not_have_is_refused(values, said):
    with pytest.raises(JaxptError, match=said):
        built(values)


def test_a_transform_is_written_with_its_name_and_its_own_options():
    assert schema.plain(MergeKv()) == {"name": "merge_kv", "how": "mean"}
    (again,) = built(schema.plain(Subclone(selection="uniform")))
    assert again == Subclone(selection="uniform")


def test_which_transforms_read_scores_and_when():
    reading = [name for name in THEN if name != "upcycle" and built({"name": name})[0].reads_scores]
    assert reading == ["subclone"]
    assert MergeKv(how="select").reads_scores
    assert not Subclone(selection="uniform").reads_scores


@pytest.mark.parametrize("name", ["merge_kv", "grow_depth", "prune_depth"])
def test_what_a_target_must_say_is_checked_before_anything_is_read(name):
    (transform,) = built({"name": name})
    batches = [{"tokens": np.zeros((1, 2), np.int32)}]
    with pytest.raises(JaxptError, match=rf"{name} needs target\.(kv_heads|layers)"):
        transform.check(VARIANTS["llama"], ReshapeSetting(Target(), batches))


def test_upcycling_checks_its_layers():
    with pytest.raises(JaxptError, match="every is 0, it must be at least 1"):
        built({"name": "upcycle", "every": 0, "mixture": {"experts": 2, "experts_per_token": 1}})


def test_public_functions_are_not_shadowed_by_the_files_that_hold_them():
    for module in pkgutil.walk_packages(room.__path__, "jaxpt.reshape."):
        importlib.import_module(module.name)
    assert not [name for name in room.__all__ if isinstance(getattr(room, name), ModuleType)]


def examples():
    """Every `jaxpt reshape` with a config in the command's help, the config files and docs, as arguments."""
    texts = [command.EPILOG, *(path.read_text() for path in [*Path("configs/reshape").glob("*.py")])]
    texts += [Path(page).read_text() for page in ("docs/reshape.md", "docs/moe.md", "README.md")]
    for text in texts:
        for line in re.sub(r"\\\n +", "", text).splitlines():
            if "jaxpt reshape " in line and "--config=" in line:
                yield shlex.split(line.strip().strip("`"))[2:]


@pytest.mark.parametrize("arguments", examples(), ids=" ".join)
def test_every_example_names_a_config_and_keys_that_there_are(arguments):
    (config,) = [a.removeprefix("--config=") for a in arguments if a.startswith("--config=")]
    assert load(ReshapeConfig, config, [a for a in arguments if a.startswith("--config.")]).transforms


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A bundle, and a transform in one file outside the repository."""
    (tmp_path / "louder_file.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    config = VARIANTS["llama"]
    return save_bundle(Model(config, random_params(config)), tmp_path / "bundle")


def reshape(own, to, *flags, name="louder_file:Louder", options=""):
    file = own.parent / "own.py"
    file.write_text(CONFIG.format(name=name, options=options))
    return main(["reshape", f"--config={file}", f"--from={own}", f"--to={to}", *flags])


def gains(bundle):
    return np.asarray(flatten(open_bundle(bundle).params())["final_norm"])


def test_a_transform_outside_the_repository_is_named_in_a_config(own, tmp_path):
    assert reshape(own, tmp_path / "out", options=", 'factor': 3.0") == 0
    np.testing.assert_allclose(gains(tmp_path / "out"), 3 * gains(own), rtol=1e-6)
    assert open_bundle(tmp_path / "out").lineage[-1]["op"] == "louder"


def test_a_transform_outside_the_repository_is_named_on_the_command_line(own, tmp_path):
    flags = ["--config.transforms[0].name=louder_file:Louder", "--config.transforms[0].factor=0.5"]
    assert reshape(own, tmp_path / "out", *flags, name="subclone", options=", 'selection': 'uniform'") == 0
    np.testing.assert_allclose(gains(tmp_path / "out"), 0.5 * gains(own), rtol=1e-6)


def test_the_transform_of_the_docs_works(own, tmp_path):
    text = Path("docs/reshape.md").read_text()
    block = re.search(r"\n\n((?:    .*\n|\n)+?)\n`rewrites` returns", text)[1]
    (own.parent / "every_other_file.py").write_text(textwrap.dedent(block))
    assert reshape(own, tmp_path / "out", name="every_other_file:EveryOther") == 0
    assert len(open_bundle(tmp_path / "out").config.layers) == -(-len(VARIANTS["llama"].layers) // 2)


def test_its_mistakes_are_one_line_and_name_the_nearest(own, tmp_path, capsys):
    for flags, name, said in (
        (["--config.transforms[0].facto=2"], "louder_file:Louder", r"did you mean 'factor'"),
        (["--config.transforms[0].factor=0.0"], "louder_file:Louder", "louder by 0 is silence"),
        ([], "louder_file:Lauder", r"has no class Lauder \(did you mean 'Louder'"),
        ([], "lauder_file:Louder", "there is no module lauder_file"),
    ):
        assert reshape(own, tmp_path / "out", *flags, name=name) == 1
        error = capsys.readouterr().err.strip()
        assert re.search(said, error), error
        assert "\n" not in error
    assert not (tmp_path / "out").exists()
