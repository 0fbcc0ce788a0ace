"""Flags give what ml_collections gives, refuse what it refuses, and say what is wrong in one line."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest
from absl import flags
from ml_collections import ConfigDict, FieldReference, config_flags

from jaxpt.config import schema
from jaxpt.config.choice import option
from jaxpt.config.overrides import apply
from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class Inner:
    """A section within a section."""

    rate: float = 0.5
    names: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Entry:
    """An entry of a list or a dict."""

    path: str
    repeat: int = 1
    inner: Inner = Inner()


@dataclass(frozen=True)
class Config:
    """Keys of every type."""

    count: int = 3
    rate: float = 0.5
    on: bool = True
    off: bool = False
    text: str = "x"
    kind: Literal["one", "two"] = "one"
    shape: tuple[int, ...] = (1, 2)
    names: tuple[str, ...] = ("a", "b")
    inner: Inner = Inner()
    weights: dict[str, float] = field(default_factory=lambda: {"web": 1.0, "code": 2.0})
    free: dict[str, Any] = field(default_factory=lambda: {"word": "w", "number": 1.5, "deep": {"x": 1.5}})
    entries: tuple[Entry, ...] = (Entry("p"), Entry("q", 2))
    limit: float | None = 1.0
    maybe: Inner | None = None
    sources: dict[str, Entry] = option({})


def stated() -> ConfigDict:
    """All keys but those that ml_collections cannot hold without a value."""
    values = schema.plain(Config())
    values["entries"] = [ConfigDict(entry) for entry in values["entries"]]
    for key in ("shape", "names"):
        values[key] = tuple(values[key])
    values["inner"]["names"] = tuple(values["inner"]["names"])
    return ConfigDict({k: v for k, v in values.items() if k not in ("maybe", "sources")})


def theirs(overrides):
    """What ml_collections makes of the flags."""
    values, known = stated(), flags.FlagValues()
    config_flags.DEFINE_config_dict("config", values, flag_values=known, sys_argv=["jaxpt", *overrides])
    known(["jaxpt", *overrides])
    return schema.build(Config, values)


def ours(overrides, values=None, log=pytest.fail):
    """What jaxpt makes of them, from a config that states nothing unless `values` are given."""
    values = ConfigDict() if values is None else values
    schema.translate(Config, values)
    apply(Config, values, overrides, log)
    return schema.build(Config, values)


SAME = [
    ["--config.count=7"],
    ["--config.count=-7"],
    ["--config.count=+7"],
    ["--config.count=0x10"],
    ["--config.count=0o10"],
    ["--config.count=1_000"],
    ["--config.count=1", "--config.count=2"],
    ["--config.rate=0.25"],
    ["--config.rate=1e-3"],
    ["--config.rate=3"],
    ["--config.rate=inf"],
    ["--config.on"],
    ["--config.off"],
    ["--noconfig.on"],
    ["--noconfig.off"],
    ["--config.on=false"],
    ["--config.off=true"],
    ["--config.off=T"],
    ["--config.on=F"],
    ["--config.off=1"],
    ["--config.on=0"],
    ["--config.text=y"],
    ["--config.text="],
    ["--config.text='quoted'"],
    ["--config.text=a=b, c"],
    ["--config.text=12"],
    ["--config.kind=two"],
    ["--config.shape=(3,4,5)"],
    ["--config.shape=(3,)"],
    ["--config.shape=3"],
    ["--config.shape=[3, 4]"],
    ["--config.shape=()"],
    ["--config.shape=3", "--config.shape=4"],
    ["--config.names=c"],
    ["--config.names=blocks/*/q"],
    ["--config.names=('c', 'd')"],
    ["--config.names=c", "--config.names=d"],
    ["--config.names=c,d"],
    ["--config.inner.rate=0.125"],
    ["--config.inner.names=('z',)"],
    ["--config.inner={'rate': 0.75}"],
    ["--config.weights.web=0.5"],
    ["--config.weights={'books': 3.0}"],
    ["--config.weights={}"],
    ["--config.free.word=other"],
    ["--config.free.number=2"],
    ["--config.free.deep.x=0.1"],
    ["--config.entries[1].path=r"],
    ["--config.entries[0].repeat=9", "--config.entries[1].inner.rate=2.5"],
    ["--config.entries[-1].repeat=4"],
    ["--config.limit=0.1"],
]

REFUSED = [
    ["--config.count=1.5"],
    ["--config.count="],
    ["--config.count=many"],
    ["--config.count"],
    ["--noconfig.count"],
    ["--config.rate=fast"],
    ["--config.rate"],
    ["--config.on=maybe"],
    ["--config.on=2"],
    ["--noconfig.on=true"],
    ["--config.kind=three"],
    ["--config.shape=a b"],
    ["--config.shape=('a',)"],
    ["--config.coutn=1"],
    ["--config.inner.rat=1"],
    ["--config.inner=3"],
    ["--config.inner={'rate'"],
    ["--config.text.more=1"],
    ["--config.entries[2].path=x"],
    ["--config.entries[0].pth=x"],
    ["--config.weights=3"],
    ["--config.count.=1"],
    ["--config.=1"],
    ["--other.count=1"],
]


@pytest.mark.parametrize("overrides", SAME, ids=" ".join)
@pytest.mark.parametrize("file", [None, stated], ids=["nothing stated", "all stated"])
def test_flags_give_what_ml_collections_gives(overrides, file):
    assert ours(overrides, file and file()) == theirs(overrides)


def test_at_least_forty_flags_are_compared_and_nearly_all_change_something():
    assert len(SAME) >= 40
    unchanged = [overrides for overrides in SAME if ours(overrides) == Config()]
    assert unchanged == [["--config.on"], ["--noconfig.off"]]


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_flags_that_ml_collections_refuses_are_refused_in_one_line(overrides):
    with pytest.raises((flags.Error, AttributeError, KeyError, IndexError, TypeError, ValueError)):
        theirs(overrides)
    with pytest.raises(JaxptError) as error:
        ours(overrides)
    assert "\n" not in str(error.value)
    assert "config" in str(error.value) or str(error.value).startswith(overrides[0])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("--config.count=1.5", "--config.count=1.5: it must be a whole number"),
        ("--config.rate=fast", "--config.rate=fast: it must be a number"),
        ("--config.on=maybe", "--config.on=maybe: it must be true or false"),
        ("--config.count", "--config.count: give a value, --config.count=VALUE; it must be a whole number"),
        ("--config.entries.path=x", "config.entries has no keys, it is a list; its entries are config.entries[0] …"),
        ("--config.inner=3", "--config.inner=3: config.inner has keys of its own (rate, names); set one, or it must"),
        ("--config.kind=three", "config.kind is 'three', it must be one of one, two"),
        ("--config.shape=a b", "--config.shape=a b: it must be a list such as"),
        ("--config.coutn=1", "config.coutn is not a key (did you mean 'count'?)"),
        ("--config.inner.rat=1", "config.inner.rat is not a key (did you mean 'rate'?)"),
        ("--config.inner.xyz=1", "config.inner.xyz is not a key; the keys are rate, names"),
        ("--config.text.more=1", "--config.text.more=1: config.text has no keys, it is 'x'"),
        ("--config.entries[2].path=x", "config.entries has 2 entries, there is no config.entries[2]"),
        ("--config.weights.books.x=1", "--config.weights.books.x=1: config.weights.books has no keys, it is not set"),
        ("--config.weights['a.b']=1", "--config.weights['a.b']=1: the name 'a.b' holds a dot, which names of a config"),
        ("--config.weights=3", "--config.weights=3: config.weights has keys of its own; set one, or it must be a dict"),
        ("--config.count.=1", "--config.count.=1: keys look like config.stages[0].name"),
        ("count=1", "count=1 is not an argument; overrides look like --config.key=value"),
        ("--config.sources.web.repeat=2", "config.sources.web is not a key; it has no keys; a new one needs path"),
    ],
)
def test_a_mistake_says_the_key_its_neighbour_and_what_it_must_be(override, line):
    with pytest.raises(JaxptError) as error:
        ours([override], stated())
    assert line in str(error.value)


def test_none_is_no_value_where_a_key_may_have_none():
    assert ours(["--config.limit=None"]).limit is None
    with pytest.raises(JaxptError, match=r"config\.count is None"):
        ours(["--config.count=None"])


def test_none_takes_a_section_back_to_its_defaults():
    values = ConfigDict({"inner": {"rate": 9.0}})
    assert ours(["--config.inner=None"], values).inner == Inner()


def test_a_section_that_is_not_there_begins_with_its_defaults():
    assert ours(["--config.maybe.rate=2"]).maybe == Inner(rate=2.0)
    assert ours(["--config.entries[1].inner.rate=2"]).entries == (Entry("p"), Entry("q", 2, Inner(2.0)))
    assert ours(["--config.weights.web=3"]).weights == {"code": 2.0, "web": 3.0}


def test_a_dict_of_sections_takes_a_new_entry_whose_required_keys_are_given():
    made = ours(["--config.sources.new.repeat=3", "--config.sources.new.path=p", "--config.sources.c4-en.path=q"])
    assert made.sources == {"new": Entry("p", 3), "c4-en": Entry("q")}
    assert ours(["--config.sources.new={'path': 'p'}"]).sources == {"new": Entry("p")}


NEW_NAMES = [
    (
        "--config.weights.web2=3",
        lambda c: c.weights["web2"] == 3.0,
        "config.weights.web2 is a new name (did you mean 'web'?",
    ),
    ("--config.weights.books=3", lambda c: c.weights == {"web": 1.0, "code": 2.0, "books": 3.0}, None),
    ("--config.weights['a-b']=3", lambda c: c.weights["a-b"] == 3.0, None),
    ("--config.free.wrd=x", lambda c: c.free["wrd"] == "x", "config.free.wrd is a new name (did you mean 'word'?)"),
    ("--config.free.deeper.x=1.5", lambda c: c.free["deeper"] == {"x": 1.5}, "config.free.deeper is a new name"),
    ("--config.free.deep.y=2", lambda c: c.free["deep"] == {"x": 1.5, "y": 2}, None),
]


@pytest.mark.parametrize(("override", "is_right", "line"), NEW_NAMES, ids=[case[0] for case in NEW_NAMES])
def test_a_dict_takes_any_new_name_and_a_line_says_what_it_is_near(override, is_right, line):
    printed = []
    assert is_right(ours([override], stated(), printed.append))
    assert [text.startswith(line) for text in printed] == ([] if line is None else [True])


def test_a_name_that_other_flags_give_as_well_is_not_taken_for_a_mistake():
    values = ConfigDict({"sources": {"text1": {"path": "p"}}, "weights": {"text1": 1}})
    added = ["--config.weights.text2=2", "--config.sources.text2.path=q"]
    assert ours(added, values).weights == {"text1": 1.0, "text2": 2.0}  # `ours` fails where anything is printed


def test_what_refers_to_a_value_moves_with_it():
    count = FieldReference(3)
    values = ConfigDict({"count": count, "entries": [{"path": "p"}]})
    values.entries[0] = ConfigDict({"path": "p", "repeat": values.get_ref("count") * 2})
    assert ours(["--config.count=5"], values) == Config(count=5, entries=(Entry("p", 10),))


def test_two_stages_that_share_a_dict_are_changed_one_at_a_time():
    inner = {"rate": 1.0}
    values = ConfigDict({"entries": [{"path": "p", "inner": inner}, {"path": "q", "inner": inner}]})
    assert [e.inner.rate for e in ours(["--config.entries[0].inner.rate=2"], values).entries] == [2.0, 1.0]


@dataclass(frozen=True)
class Renamed:
    """A section whose keys had other names and another place."""

    moved: ClassVar[dict[str, str]] = {"measure.often": "measures.loss.path", "measure.times": "measures.loss.repeat"}

    measures: dict[str, Entry] = option({})
    seed: int = 0

    @classmethod
    def of_today(cls, values):
        """`seed` was once a text."""
        return values | {"seed": int(values["seed"])} if isinstance(values.get("seed"), str) else values


def test_keys_of_earlier_versions_are_read_from_files_and_flags():
    want = Renamed({"loss": Entry("p", 4)}, 7)
    old = {"measure": {"often": "p", "times": 4}, "seed": "7"}
    assert schema.build(Renamed, old) == want
    assert schema.plain(schema.build(Renamed, old)) == schema.plain(want)
    assert old == {"measure": {"often": "p", "times": 4}, "seed": "7"}, "nothing is changed in place"
    values = ConfigDict({"measure": {"often": FieldReference("p"), "times": 2}, "seed": "7"})
    schema.translate(Renamed, values)
    apply(Renamed, values, ["--config.measure.times=4"])
    assert schema.build(Renamed, values) == want


@dataclass(frozen=True)
class Whole:
    """A section whose whole number was once stored as a float."""

    count: int = 0

    @classmethod
    def of_today(cls, values):
        """4.0 is 4."""
        return {key: int(value) if isinstance(value, float) else value for key, value in values.items()}


def test_a_translation_may_change_the_type_alone():
    assert schema.build(Whole, {"count": 4.0}) == Whole(4)
    values = ConfigDict({"count": 4.0})
    schema.translate(Whole, values)
    assert type(values.count) is int


def test_references_between_fields_survive_a_translation():
    often = FieldReference("p")
    values = ConfigDict({"measure": {"often": often}})
    schema.translate(Renamed, values)
    often.set("later")
    assert values.measures.loss.path == "later"


def test_a_key_under_both_its_names_is_refused():
    both = {"measure": {"often": "p"}, "measures": {"loss": {"path": "q"}}}
    with pytest.raises(JaxptError, match=r"config\.measure\.often is called config\.measures\.loss\.path today"):
        schema.build(Renamed, both)
