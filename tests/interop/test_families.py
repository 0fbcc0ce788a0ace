"""A family is its file, found by its name; one outside the repository is named by its module, mistakes in one line."""

import pkgutil

import pytest

from jaxpt.errors import JaxptError
from jaxpt.interop import FAMILIES, families
from jaxpt.interop.find_family import family_named, family_of

OWN = """
from jaxpt.interop.family import Family
from jaxpt.interop.mapping import LLAMA_LIKE

FAMILY = Family("mine", "MineForCausalLM", LLAMA_LIKE, {}, lambda keys, facts: {}, lambda config: {})
other = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_family_file.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def test_each_file_of_the_room_is_the_family_of_its_name():
    assert list(FAMILIES) == [module.name for module in pkgutil.iter_modules(families.__path__)]
    assert {"llama", "qwen3_moe"} <= FAMILIES.keys()


def test_a_family_outside_the_repository_reads_its_own_config_and_no_other(mine):
    name = "my_family_file:FAMILY"
    assert family_of({"model_type": "mine"}, "config.json", name).architecture == "MineForCausalLM"
    with pytest.raises(JaxptError, match=r"config.json: model_type is 'llama', --family=.* reads 'mine'"):
        family_of({"model_type": "llama"}, "config.json", name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lama", r"--family=lama is unknown \(did you mean 'llama'\?\); known: gemma2, "),
        ("my_family_fil:FAMILY", "there is no module my_family_fil; put its folder on PYTHONPATH"),
        ("my_family_file:FAMILI", "my_family_file has no FAMILI that is a"),
        ("my_family_file:other", "my_family_file has no other that is a"),
    ],
)
def test_a_family_that_is_not_there_is_named(mine, name, message):
    with pytest.raises(JaxptError, match=message) as error:
        family_named(name)
    assert "\n" not in str(error.value)
