"""Files of strangers: regular ones inside their directory, and JSON that is what it looks like; else one short line."""

import os
import re

import pytest

from jaxpt.errors import JaxptError, short
from jaxpt.files.strangers import check_tree, parse_json, read_text, regular_file


def test_a_regular_file_and_a_link_to_one_in_the_directory_are_read(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    assert read_text(regular_file(tmp_path, "b")) == "x"
    assert regular_file(tmp_path, "c") is None
    (tmp_path.parent / "way").symlink_to(tmp_path)  # the directory itself may be given by a link
    assert regular_file(tmp_path.parent / "way", "b") is not None


def test_a_snapshot_of_the_hub_cache_may_link_to_its_blobs(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "0f").write_text("x")
    (snapshot / "config.json").symlink_to("../../blobs/0f")
    assert read_text(regular_file(snapshot, "config.json")) == "x"
    (tmp_path / "secret").write_text("y")
    (snapshot / "other").symlink_to("../../secret")
    with pytest.raises(JaxptError, match="a link out of its directory"):
        regular_file(snapshot, "other")


ODD = {
    "a pipe, not a regular file": os.mkfifo,
    "a directory, not a regular file": os.mkdir,
    "a link out of its directory": lambda p: p.symlink_to("/etc/hostname"),
    "a device": lambda p: os.mknod(p, 0o020666, os.makedev(1, 5)),
    "which is not there": lambda p: p.symlink_to("nowhere"),
    "is not read": lambda p: p.symlink_to(p.name),
}


@pytest.mark.parametrize("message", ODD)
def test_what_is_no_regular_file_of_the_directory_is_refused(tmp_path, message):
    if message == "a device" and os.geteuid() != 0:
        pytest.skip("only root makes devices")
    try:
        ODD[message](tmp_path / "x")
    except PermissionError:
        pytest.skip("devices cannot be made here")
    for look in (lambda: regular_file(tmp_path, "x"), lambda: check_tree(tmp_path)):
        if "directory, not" in message and look is not None:
            look = lambda: regular_file(tmp_path, "x")  # noqa: E731
        with pytest.raises(JaxptError, match=message):
            look()


JSON = {
    "has the key 'b' more than once": '{"a": {"b": 1, "b": 1}}',
    "holds NaN, which is no number": '{"a": NaN}',
    "holds -Infinity, which is no number": '{"a": [-Infinity]}',
    "holds 1e999, which is too large": '{"a": 1e999}',
    "holds a number of 400 digits (99999999999999999999…)": '{"a": ' + "9" * 400 + "}",
    "is nested without end": "[" * 100_000,
    "is nested more than 200 deep": "[" * 300 + "]" * 300,
    "is not JSON": '{"a": ',
}


@pytest.mark.parametrize("message", JSON)
def test_json_that_no_number_or_key_can_hold_is_refused_in_a_short_line(message):
    with pytest.raises(JaxptError, match=re.escape(message)) as error:
        parse_json(JSON[message], "config.json")
    assert len(str(error.value)) < 200


def test_usual_json_is_read_as_it_is():
    assert parse_json('{"a": [1, 2.5, null, "x"], "b": -3}', "f") == {"a": [1, 2.5, None, "x"], "b": -3}
    assert parse_json('{"a": NaN}', "f", finite=False)["a"] != 0


def test_a_quoted_value_is_cut_at_any_depth_and_length():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert len(short(deep)) <= 80
    assert len(short(["x" * 10**6] * 10**4)) <= 80
    assert short("llama") == "'llama'"
