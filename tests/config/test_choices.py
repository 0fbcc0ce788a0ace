"""A name picks a dataclass with options of its own: from files, flags, dicts, lists and within other choices."""

import importlib
import sys
import textwrap
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from jaxpt.config import choice, schema
from jaxpt.config.overrides import apply
from jaxpt.errors import JaxptError

FILES = {
    "toys/__init__.py": "",
    "toys/room/__init__.py": "",
    "toys/toy.py": '''
        from dataclasses import dataclass
        from typing import Any
        from jaxpt.config.choice import Choice, choice_option, option, options_of
        from jaxpt.errors import JaxptError

        @dataclass(frozen=True)
        class Toy(Choice, kind="toy", room="toys.room", default="ball"):
            """Something to play with."""

            price: float = option(1.0, "what it costs")

            def __post_init__(self):
                if self.price < 0:
                    raise JaxptError(f"price is {self.price}, it must be at least 0")

        @dataclass(frozen=True)
        class Shop:
            """A section with choices everywhere."""

            first: Toy = choice_option(Toy, "the one in the window")
            shelf: tuple[Toy, ...] = ()
            named: dict[str, Toy] = option({})
            gift: Toy | None = None
            orders: "tuple[Order, ...]" = ()

        @dataclass(frozen=True)
        class Order:
            """A section in which one key names what another holds the options of."""

            what: str
            options: dict[str, Any] = options_of(Toy, "what")
        ''',
    "toys/room/ball.py": '''
        from dataclasses import dataclass
        from jaxpt.config.choice import option
        from toys.toy import Toy

        @dataclass(frozen=True)
        class Ball(Toy):
            """It rolls."""

            moved = {"size": "radius"}

            radius: float = option(2.0, "in cm")
            colour: str = "red"
        ''',
    "toys/room/kite.py": '''
        from dataclasses import dataclass
        from toys.room.ball import Ball  # what a file imports is not its choice
        from toys.toy import Toy

        @dataclass(frozen=True)
        class _Flying(Toy):
            height: int = 10

        @dataclass(frozen=True, kw_only=True)
        class Kite(_Flying):
            """It flies."""

            tail: int
            colour: str = "blue"
        ''',
    "toys/room/box_.py": '''
        from dataclasses import dataclass
        from jaxpt.config.choice import choice_option
        from toys.toy import Toy

        @dataclass(frozen=True)
        class Box(Toy):
            """It holds another toy."""

            inside: Toy = choice_option(Toy)
        ''',
    "toys/room/tools.py": "RATE = 1\n",
    "mine.py": '''
        from dataclasses import dataclass
        from toys.toy import Toy

        @dataclass(frozen=True)
        class Robot(Toy):
            """Mine."""

            legs: int = 2

        @dataclass(frozen=True)
        class Glass(Toy):
            """It cannot be made."""

            def __post_init__(self):
                raise OSError("it broke")

        class Bare(Toy):
            """Its options would be ignored."""

            legs: int = 2

        @dataclass(frozen=True)
        class Other:
            """Of no kind."""

        number = 3
        ''',
    "broken.py": "raise RuntimeError('no batteries')\n",
    "leaving.py": "raise SystemExit(3)\n",
    "lacking.py": "import no_such_module_anywhere\n",
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The module of the base class, with its room and a module outside it."""
    folder = tmp_path_factory.mktemp("toys")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    sys.path.insert(0, str(folder))
    yield importlib.import_module("toys.toy")
    sys.path.remove(str(folder))
    for name in [n for n in sys.modules if n.split(".")[0] in ("toys", "mine")]:
        del sys.modules[name]


def load(toy, file, *flags, log=pytest.fail):
    values = ConfigDict(file)
    schema.translate(toy.Shop, values)
    apply(toy.Shop, values, flags, log)
    return schema.build(toy.Shop, values)


def refused(toy, file, *flags):
    with pytest.raises(JaxptError) as error:
        load(toy, file, *flags, log=lambda line: None)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_in_the_room_is_a_choice_called_like_the_file(toy):
    assert choice.names(toy.Toy) == ["ball", "box", "kite"]
    for name in choice.names(toy.Toy):
        assert choice.name_of(choice.find(toy.Toy, name, "config.first.name")) == name


def test_without_a_name_the_default_is_picked_and_its_options_are_read(toy):
    shop = load(toy, {"first": {"radius": 3}})
    assert (shop.first.name, shop.first.radius, shop.first.price, shop.gift) == ("ball", 3.0, 1.0, None)
    assert load(toy, {}) == load(toy, {"first": {"name": "ball"}})


def test_choices_stand_in_lists_in_dicts_within_others_and_where_none_was(toy):
    file = {
        "shelf": [{"name": "kite", "tail": 3}, {"name": "ball"}],
        "named": {"a": {"name": "box", "inside": {"name": "kite", "tail": 1}}},
    }
    flags = ["--config.shelf[0].tail=5", "--config.named.a.inside.tail=2", "--config.gift.name=kite"]
    shop = load(toy, file, *flags, "--config.gift.tail=4", "--config.shelf[1].colour=green")
    assert (shop.shelf[0].tail, shop.shelf[1].colour) == (5, "green")
    assert (shop.named["a"].inside.tail, shop.gift.tail) == (2, 4)


def test_a_stored_choice_reads_back_the_same(toy):
    shop = load(toy, {"shelf": [{"name": "kite", "tail": 3}], "named": {"r": {"name": "mine:Robot", "legs": 4}}})
    stored = schema.plain(shop)
    assert stored["shelf"] == [{"name": "kite", "price": 1.0, "height": 10, "tail": 3, "colour": "blue"}]
    assert stored["named"]["r"] == {"name": "mine:Robot", "price": 1.0, "legs": 4}
    assert load(toy, stored) == shop == schema.build(toy.Shop, stored)


@pytest.mark.parametrize("name_first", [True, False])
@pytest.mark.parametrize("key", ["first", "shelf[0]", "named.a", "named.b.inside"])
def test_a_flag_that_changes_a_name_drops_the_options_of_the_old_choice_and_says_so(toy, key, name_first):
    ball = {"name": "ball", "radius": 5.0, "colour": "pink", "price": 7.0}
    file = {"first": ball, "shelf": [ball], "named": {"a": ball, "b": {"name": "box", "inside": ball}}}
    flags = [f"--config.{key}.name=kite", f"--config.{key}.tail=3"]
    lines = []
    shop = load(toy, file, *(flags if name_first else flags[::-1]), log=lines.append)
    places = {
        "first": shop.first,
        "shelf[0]": shop.shelf[0],
        "named.a": shop.named["a"],
        "named.b.inside": shop.named["b"].inside,
    }
    got = places[key]
    assert (got.name, got.tail, got.colour, got.price) == ("kite", 3, "blue", 7.0)
    assert lines == [f"--config.{key}.name=kite drops what the config says of ball: colour, radius"]


def test_nothing_is_dropped_where_the_name_stays_or_the_file_says_nothing_of_the_old_choice(toy):
    shop = load(toy, {"first": {"radius": 5.0}}, "--config.first.name=ball")
    assert shop.first.radius == 5.0
    assert load(toy, {"first": {"price": 5.0}}, "--config.first.name=mine:Robot").first.price == 5.0


def test_the_outer_name_is_resolved_before_the_inner(toy):
    flags = ["--config.first.inside.tail=2", "--config.first.inside.name=kite", "--config.first.name=box"]
    assert load(toy, {}, *flags).first.inside.tail == 2


def test_a_dict_takes_a_new_choice_that_is_named_or_called_like_one(toy):
    shop = load(toy, {}, "--config.named.x.name=mine:Robot", "--config.named.x.legs=6", "--config.named.ball.radius=1")
    assert (shop.named["x"].legs, shop.named["ball"].radius, shop.named["ball"].name) == (6, 1.0, "ball")
    message = refused(toy, {"named": {"bell": {"name": "ball"}}}, "--config.named.bel.radius=1")
    assert message == "config.named.bel is not a key (did you mean 'bell'?); a new one needs name"


@pytest.mark.parametrize(
    ("file", "flags", "line"),
    [
        ({"first": {"name": "bal"}}, [], "config.first.name is 'bal', which is not a toy (did you mean 'ball'?)"),
        ({}, ["--config.first.name=xyz"], "config.first.name is 'xyz', which is not a toy; known: ball, box, kite, or"),
        ({"first": {"name": 3}}, [], "config.first.name is 3, it must be a name: ball, box, kite"),
        ({"first": {"radus": 3}}, [], "config.first.radus is not a key (did you mean 'radius'?)"),
        ({"first": {"tail": 3}}, [], "config.first.tail is not a key; kite has it"),
        ({}, ["--config.first.tail=3"], "config.first.tail is not a key; kite has it"),
        ({}, ["--config.first.radus=3"], "config.first.radus is not a key (did you mean 'radius'?)"),
        ({}, ["--config.first.name=kite", "--config.first.radius=3"], "config.first.radius is not a key; ball has it"),
        ({}, ["--config.first.name=kite"], "config.first lacks tail; set --config.first.tail"),
        ({}, ["--config.first.radius=big"], "--config.first.radius=big: it must be a number"),
        ({}, ["--config.first=kite"], "config.first has keys of its own; pick one with --config.first.name=kite"),
        ({"first": "kite"}, [], "config.first is 'kite', it must be a dict with the keys name, price"),
        ({"shelf": [{"price": -1}]}, [], "config.shelf[0].price is -1.0, it must be at least 0"),
        ({"named": {"a": {"name": "mine:Robt"}}}, [], "mine has no class Robt (did you mean 'Robot'?)"),
        ({}, ["--config.first.name=mine:Other"], "make it a frozen dataclass that inherits toys.toy:Toy"),
        ({}, ["--config.first.name=mine:number"], "mine has no class number"),
        ({}, ["--config.first.name=yours:Robot"], "there is no module yours in the current folder or on Python's path"),
        (
            {},
            ["--config.first.name=broken:Robot"],
            "broken.py:1: raise RuntimeError('no batteries'): RuntimeError: no batteries",
        ),
        (
            {},
            ["--config.first.name=lacking:Robot"],
            "lacking.py:1: import no_such_module_anywhere: No module named 'no_such_module",
        ),
        (
            {},
            ["--config.first.name=leaving:Robot"],
            "leaving.py:1: raise SystemExit(3): SystemExit: 3",
        ),
        ({}, ["--config.first.name=:Robot"], "config.first.name is ':Robot', it must look like package.module:Class"),
        ({}, ["--config.first.name=mine:"], "config.first.name is 'mine:', it must look like package.module:Class"),
        ({}, ["--config.first.name=a/mine:Robot"], "it must look like package.module:Class, with dots and without .py"),
        ({}, ["--config.first.name=mine:Glass"], ': raise OSError("it broke"): OSError: it broke'),
        ({}, ["--config.first.name=mine:Bare"], "make it a frozen dataclass that inherits toys.toy:Toy"),
        ({"first": {"nam": "kite"}}, [], "config.first.nam is not a key (did you mean 'name'?)"),
        ({}, ["--config.first.nam=kite"], "config.first.nam is not a key (did you mean 'name'?)"),
        ({}, ["--config.first.xyz=1"], "config.first.xyz is not a key; the keys are name, price"),
        ({}, ["--config.first.name"], "config.first.name is True, it must be a name"),
        ({}, ["--config.first.name.x=1"], "config.first.name"),
    ],
)
def test_a_mistake_names_the_option_its_neighbour_or_the_choice_that_has_it(toy, file, flags, line):
    assert line in refused(toy, file, *flags)


def test_a_broken_file_in_the_room_is_one_line_that_names_it(toy, monkeypatch):
    room = Path(importlib.import_module("toys.room").__file__).parent
    (room / "torn.py").write_text("def f(:\n")
    try:
        for flag in ("--config.first.name=torn", "--config.first.name=xyz", "--config.first.xyz=1"):
            assert "torn.py:1: def f(:: SyntaxError" in refused(toy, {}, flag)
        assert load(toy, {}, "--config.first.name=box").first.name == "box", "others are not read"
    finally:
        (room / "torn.py").unlink()


def test_code_in_the_folder_of_a_model_is_not_executed(toy, tmp_path, monkeypatch):
    (tmp_path / "sly.py").write_text("raise SystemExit('executed')\n")
    (tmp_path / "model.safetensors").touch()
    monkeypatch.syspath_prepend(tmp_path)
    message = refused(toy, {"first": {"name": "sly:Robot"}})
    assert "lies in the folder of a run or a model, whose code is never executed" in message


def test_a_choice_says_itself_what_its_options_were_called(toy):
    assert load(toy, {"first": {"size": 3}}).first.radius == 3.0
    assert load(toy, {}, "--config.first.size=4").first.radius == 4.0
    assert schema.build(toy.Shop, {"shelf": [{"size": 5}]}).shelf[0].radius == 5.0
    assert "size is not a key" in refused(toy, {"first": {"name": "kite", "size": 3}})


def test_options_may_lie_in_a_dict_beside_the_key_that_names_the_choice(toy):
    file = {"orders": [{"what": "ball", "options": {"radius": 3}}, {"what": "kite"}]}
    order = load(toy, file, "--config.orders[0].options.colour=green").orders[0]
    assert (order.what, order.options) == ("ball", {"radius": 3.0, "colour": "green"})
    assert load(toy, file, "--config.orders[1].options.tail=3").orders[1].options == {"tail": 3}
    lines = []
    flags = ["--config.orders[0].options.tail=3", "--config.orders[0].what=kite"]
    assert load(toy, file, *flags, log=lines.append).orders[0] == toy.Order("kite", {"tail": 3})
    assert lines == ["--config.orders[0].what=kite drops what the config says of ball: radius"]
    message = refused(toy, file, "--config.orders[0].options.radus=3")
    assert message == "config.orders[0].options.radus is not a key (did you mean 'radius'?)"
    assert "must be a number" in refused(toy, file, "--config.orders[0].options.radius=x")
    message = refused(toy, {"orders": [{"what": "ball", "options": {"tail": 3}}]})
    assert message == "config.orders[0].options.tail is not a key; kite has it"
    assert "'bal', which is not a toy (did you mean 'ball'?)" in refused(toy, file, "--config.orders[0].what=bal")
