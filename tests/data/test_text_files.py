"""Which names are read as text, and that no file is left out without being named."""

import gzip
import json

import pytest
import zstandard

from data_tools.__main__ import main
from data_tools.io.readers import SUFFIXES, Problem, output_name
from data_tools.shards.records import open_shards
from jaxpt.data.origins import is_text, open_origin
from jaxpt.data.text_files import list_files, read_documents
from jaxpt.errors import JaxptError

PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
KINDS = [f"{kind}{pack}" for kind in ("jsonl", "json", "ndjson") for pack in PACK]


def lines(*texts):
    return "".join(json.dumps({"text": t}) + "\n" for t in texts).encode()


def write(folder, name, data):
    folder.mkdir(exist_ok=True)
    pack = next((p for p in (".gz", ".zst") if name.endswith(p)), "")
    (folder / name).write_bytes(PACK[pack](data))


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_of_json_lines_is_read_alone_in_a_folder_and_by_a_glob(tmp_path, kind):
    write(tmp_path / "in", f"c4-train.00000-of-00512.{kind}", lines("one", "two"))
    for given in (f"c4-train.00000-of-00512.{kind}", "", f"*.{kind}", "c4*"):
        path = str(tmp_path / "in" / given)
        assert [d["text"] for d in open_origin(path).documents(("text",))] == ["one", "two"]
        (shard,) = open_shards(path)
        assert [r["text"] for r in shard.rows()] == ["one", "two"]
        assert is_text(path) or kind == "json"
    pack = kind.partition(".")[2]
    assert shard.name == "c4-train.00000-of-00512.jsonl" + (".zst" if pack else "")


def test_a_folder_of_all_kinds_is_read_whole(tmp_path):
    names = [f"{i}.{kind}" for i, kind in enumerate(k for k in KINDS if k != "json")]
    for name in names:
        write(tmp_path, name, lines(name))
    assert [d["text"] for d in open_origin(str(tmp_path)).documents(("text",))] == sorted(names)
    assert sorted(r["text"] for s in open_shards(str(tmp_path)) for r in s.rows()) == sorted(names)


@pytest.mark.parametrize("suffixes", [None, SUFFIXES])
@pytest.mark.parametrize("given", ["", "*", "[ab]*"])
def test_files_that_are_left_out_are_named_once(tmp_path, capsys, given, suffixes):
    more = [suffixes] if suffixes else []
    write(tmp_path, "a.jsonl", lines("a"))
    for name in ("b.csv", "b.jsonl.bz2", "b.JSONL", "b.warc.wat.gz", "b.parquet.tmp"):
        (tmp_path / name).write_bytes(b"x")
    pattern = str(tmp_path / given)
    for _ in range(2):
        assert list_files(pattern, *more) == [str(tmp_path / "a.jsonl")]
    said = capsys.readouterr().err
    names = "b.JSONL, b.csv, b.jsonl.bz2, …"
    assert said == f"{pattern}: 5 files that are of no kind that is read here, left out: {names}\n"


def test_a_plain_json_beside_data_is_a_note_which_is_named_and_can_be_read_by_its_name(tmp_path, capsys):
    write(tmp_path, "a.jsonl.gz", lines("a"))
    write(tmp_path, "info.json", b'{\n "text": "a description"\n}')
    assert [s.name for s in open_shards(str(tmp_path))] == ["a.jsonl.zst"]
    assert "1 file that is" in (said := capsys.readouterr().err)
    assert "info.json; name them" in said
    write(tmp_path, "info.json", lines("b"))
    assert [s.name for s in open_shards(f"{tmp_path}/*.json*")] == ["a.jsonl.zst", "info.jsonl"]
    assert capsys.readouterr().err == ""


def test_a_file_of_unknown_kind_that_is_named_is_an_error_and_so_is_a_glob_of_nothing_else(tmp_path):
    write(tmp_path, "a.csv", b"x")
    for pattern in ("a.csv", "*", "*.csv"):
        with pytest.raises(JaxptError, match=r"a\.csv is of an unknown kind; known are \.jsonl, "):
            list_files(f"{tmp_path}/{pattern}")
    for pattern in ("b.jsonl", "*.jsonl", "no/such"):
        with pytest.raises(JaxptError, match="no such file"):
            list_files(f"{tmp_path}/{pattern}")
    write(tmp_path, "odd[1]*.jsonl", lines("odd"))
    assert list_files(f"{tmp_path}/odd[1]*.jsonl") == [f"{tmp_path}/odd[1]*.jsonl"]


def test_a_shard_that_is_gone_from_a_steps_folder_is_named(tmp_path):
    write(tmp_path / "in", "a.jsonl", lines("a"))
    write(tmp_path / "in", "b.jsonl", lines("b"))
    assert main(["extract", f"--input={tmp_path}/in", f"--output={tmp_path}/out"]) == 0
    assert len(list_files(str(tmp_path / "out"))) == 2
    (tmp_path / "out/b.jsonl").unlink()
    with pytest.raises(JaxptError, match=r"out/b\.jsonl is gone"):
        list_files(str(tmp_path / "out"))


def test_an_empty_part_of_an_input_is_not_the_current_folder(tmp_path, capsys):
    write(tmp_path / "in", "a.jsonl", lines("a"))
    with pytest.raises(JaxptError, match="an input is empty"):
        list_files("")
    assert main(["extract", f"--input={tmp_path}/in/a.jsonl,", f"--output={tmp_path}/out"]) == 1
    assert "has an empty part" in capsys.readouterr().err


def test_tokenized_documents_are_not_taken_for_text(tmp_path):
    write(tmp_path, "tokenized.json", b"{}")
    write(tmp_path / "manifests", "a.jsonl.json", b"{}")
    with pytest.raises(JaxptError, match="give it to jaxpt-data pack"):
        list_files(str(tmp_path))


def test_lines_of_side_inputs_that_are_no_records_are_counted_on_standard_error(tmp_path, capsys):
    write(tmp_path, "web.jsonl", lines("one", "two"))
    write(tmp_path, "eval.jsonl", lines("an item of the exam") + b"{broken\n")
    flags = [f"--input={tmp_path}/web.jsonl", f"--eval={tmp_path}/eval.jsonl", f"--output={tmp_path}/out"]
    assert main(["decontaminate", *flags]) == 0
    said = capsys.readouterr().err
    assert "evaluation sets: not records, left out: 1 lines" in said
    assert "eval.jsonl, line 1: broken JSON" in said


ONE_VALUE = {
    "an array over lines": b'[\n {"text": "a"},\n {"text": "b"}\n]\n',
    "an array of records by line": b'[{"text": "a"},\n{"text": "b"}]\n',
    "an object over lines": b'{\n "data": [{"text": "a"}]\n}\n',
    "after an empty line": b'\n[\n{"text": "a"},\n{"text": "b"}]',
}


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.jsonl", "a.json.zst"])
@pytest.mark.parametrize("value", ONE_VALUE)
def test_one_json_value_over_several_lines_is_refused_with_the_way_out(tmp_path, name, value):
    write(tmp_path, name, ONE_VALUE[value])
    with pytest.raises(JaxptError, match=rf"{name} is one JSON value over several lines.*jq -c"):
        list(open_shards(f"{tmp_path}/{name}")[0].records())
    if not value.startswith("after"):
        with pytest.raises(JaxptError, match=rf"{name} is one JSON value over several lines.*jq -c"):
            list(read_documents(f"{tmp_path}/{name}"))


def test_an_array_in_one_line_is_in_quarantine_and_one_broken_line_is_not_the_whole_file(tmp_path):
    write(tmp_path, "a.json", b'[{"text": "a"}, {"text": "b"}]')
    (found,) = open_shards(f"{tmp_path}/a.json")[0].records()
    assert found.reason == "a list instead of an object"
    write(tmp_path, "b.jsonl", b"[broken\n" + lines("a", "b"))
    found = list(open_shards(f"{tmp_path}/b.jsonl")[0].records())
    assert [isinstance(f, Problem) for f in found] == [True, False, False]


def test_the_names_of_outputs_are_never_those_of_notes():
    assert output_name("x/clean.json") == "clean.jsonl"
    assert output_name("a.ndjson.zst") == "a.jsonl.zst"
    assert output_name("a.jsonl.gz") == "a.jsonl.zst"
    assert output_name("a.parquet") == "a.parquet"
    assert output_name("a.warc.wet.gz") == "a.warc.wet.jsonl.zst"
