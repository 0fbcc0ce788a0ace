"""Presets are data: published values, changed by name, mistakes reported in one line."""

import json

import pytest

from data_tools.clean import presets
from data_tools.clean.edits import EDITS
from data_tools.clean.measures import MEASURES
from jaxpt.errors import JaxptError


@pytest.mark.parametrize("name", presets.names())
def test_every_shipped_preset_loads_and_says_where_it_comes_from(name):
    preset = presets.load(name)
    data = json.loads((presets.FOLDER / f"{name}.json").read_text())
    assert data["about"]
    assert data["from"]
    for rule in preset.rules():
        assert rule.least is not None or rule.most is not None, f"{name}: {rule.name} bounds nothing"
        assert rule.low < rule.high


def test_all_published_presets_are_there():
    languages = ("zh", "ja", "ko", "de", "fr", "es", "ru", "it", "pt", "ar")
    wanted = {"gopher", "c4", "fineweb", "dclm", "harsh", "harsh-zh", *(f"fineweb2-{l}" for l in languages)}
    assert wanted <= set(presets.names())


@pytest.mark.parametrize(
    ("preset", "rule", "key", "value"),
    [
        ("gopher", "words", "least", 50),
        ("gopher", "repeated_10_gram", "most", 0.1),
        ("gopher", "top_2_gram", "most", 0.2),
        ("fineweb", "short_lines", "most", 0.67),
        ("fineweb", "punctuated_lines", "least", 0.12),
        ("fineweb", "c4_lines", "ends", ()),
        ("c4", "sentences", "least", 5),
        ("dclm", "edited_words", "most", 0.05),
        ("fineweb2-zh", "line_breaks_per_word", "most", 0.178),
        ("fineweb2-ja", "duplicate_lines", "most", 0.328),
        ("fineweb2-ko", "punctuated_lines", "least", 0.062),
        ("fineweb2-de", "mean_word_length", "most", 15),
    ],
)
def test_values_are_those_that_were_published(preset, rule, key, value):
    assert presets.load(preset).steps[rule][key] == value


def test_every_value_can_be_set():
    changes = ["words.least=30", "short_lines.on=false", "characters.most=1000", 'stop_words.words=["a","b"]']
    steps = presets.load("fineweb", [*changes, "personal.replace=fake"]).steps
    assert steps["words"]["least"] == 30
    assert steps["words"]["most"] == 100_000
    assert "short_lines" not in steps
    assert steps["characters"]["most"] == 1000
    assert steps["stop_words"]["words"] == ("a", "b")
    assert steps["personal"]["replace"] == "fake"


def test_a_file_changes_a_preset_it_is_based_on(tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"base": "gopher", "steps": {"words": {"least": 9}, "bullet_lines": None}}))
    steps = presets.load(str(mine)).steps
    assert steps["words"] == {**presets.load("gopher").steps["words"], "least": 9}
    assert "bullet_lines" not in steps
    assert list(steps) == [s for s in presets.load("gopher").steps if s != "bullet_lines"]


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("finweb", [], "did you mean 'fineweb'"),
        ("gopher", ["wrds.least=3"], "did you mean 'words'"),
        ("gopher", ["words.lest=3"], "did you mean 'least'"),
        ("gopher", ["words=3"], r"write RULE\.OPTION=VALUE"),
        ("gopher", ["words.least=many"], "must be a number or null"),
        ("gopher", ["words.on=1"], "must be true or false"),
        ("gopher", ["stop_words.words=7"], "must be a list of texts"),
        ("gopher", ["segmenter=jibea"], "did you mean 'jieba'"),
        ("gopher", ["lorem_ipsum.most=0"], "measured by the edit c4_lines"),
    ],
)
def test_mistakes_are_told_with_the_nearest_name(preset, changes, message):
    with pytest.raises(JaxptError, match=message):
        presets.load(preset, changes)


def test_mistakes_in_a_file_name_the_file(tmp_path):
    path = tmp_path / "mine.json"
    for text, message in (
        ("{", "not JSON"),
        ("[]", "is a JSON object"),
        ('{"step": {}}', "did you mean 'steps'"),
        (json.dumps({"base": str(path)}), "form a cycle"),
        ('{"steps": {"word": {}}}', "did you mean 'words'"),
    ):
        path.write_text(text)
        with pytest.raises(JaxptError, match=message):
            presets.load(str(path))


def test_rules_and_edits_have_names_of_their_own():
    assert not set(MEASURES) & set(EDITS)
