"""Reading and writing shards: nothing is lost silently, nothing is done twice, nothing is half-written."""

import dataclasses
import gzip
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_tools.io.batch import Outcome, Removed, strings
from data_tools.shards.records import Problem, open_shards, run_shards
from jaxpt.data.caps import Caps
from jaxpt.errors import JaxptError

GOOD = [{"id": str(i), "text": f"text {i} 中文\ud83d\ude00"} for i in range(5)]
BAD = [b"{broken", b'"a string"', b'{"id": 1}', b'{"text": 7}', b'{"text": "\xff\xfe"}', b"[" * 100_000]


def lines(rows):
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


def drop_even(batch, place):
    numbers = [int(name) for name in strings(batch, "id")]
    gone = [Removed(i, "even", n, {"why": "test"}) for i, n in enumerate(numbers) if n % 2 == 0]
    return Outcome.of(batch, gone, statistics={"even": np.array([n % 2 for n in numbers], float)})


def outputs(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_format_comes_back_as_it_went_in(tmp_path, name):
    raw = lines(GOOD)
    path = tmp_path / name
    if name.endswith("parquet"):
        clean = [{"id": r["id"], "text": r["text"].encode("utf-16", "surrogatepass").decode("utf-16")} for r in GOOD]
        pq.write_table(pa.Table.from_pylist(clean), path)
    else:
        pack = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}.get(name.split(".")[-1], bytes)
        path.write_bytes(pack(raw))
    manifest = run_shards(open_shards(str(path)), tmp_path / "out", {}, drop_even, "test")[0]
    assert (manifest["rows"], manifest["kept"], manifest["removed"]) == (5, 2, {"even": 3})
    written = tmp_path / "out" / name.replace(".gz", ".zst")
    assert [r["id"] for r in open_shards(str(written))[0].rows()] == ["1", "3"]


def test_broken_lines_are_counted_and_quarantined_with_their_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD[:2]) + b"\n".join(BAD) + b"\n" + lines(GOOD[2:]))
    manifest = run_shards(open_shards(str(path)), tmp_path / "out", {}, drop_even, "test")[0]
    assert (manifest["rows"], manifest["quarantined"]) == (5, len(BAD))
    found = [json.loads(l) for l in (tmp_path / "out/quarantine/a.jsonl.jsonl").read_text().splitlines()]
    assert [f["place"] for f in found] == list(range(2, 2 + len(BAD)))
    assert "invalid UTF-8" in found[4]["reason"]
    assert "'text' is a int" in found[3]["reason"]


def test_an_overlong_line_is_quarantined_and_the_next_one_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([{"id": "1", "text": "x" * 5000}, {"id": "2", "text": "y"}]))
    seen = list(open_shards(str(path), caps=Caps(1000))[0].records())
    assert isinstance(seen[0], Problem)
    assert seen[1]["id"] == "2"


def test_a_second_call_does_nothing_and_a_lost_shard_comes_back_byte_identical(tmp_path):
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(lines(GOOD)))
    shards, out = open_shards(str(tmp_path / "*.gz")), tmp_path / "out"
    calls = []

    def step(batch, place):
        calls.append(place.shard)
        return drop_even(batch, place)

    run_shards(shards, out, {"a": 1}, step, "test")
    first = outputs(out)
    run_shards(shards, out, {"a": 1}, step, "test")
    assert calls == ["a.jsonl.zst", "b.jsonl.zst"]
    (out / "manifests/b.jsonl.zst.json").unlink()
    (out / "b.jsonl.zst").write_bytes(b"half")
    run_shards(shards, out, {"a": 1}, step, "test")
    assert outputs(out) == first
    assert calls[2:] == ["b.jsonl.zst"]
    run_shards(shards, out, {"a": 2}, step, "test")
    assert calls[3:] == ["a.jsonl.zst", "b.jsonl.zst"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_shard_that_is_not_what_its_step_wrote_is_refused(tmp_path, name):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.jsonl").write_bytes(lines(GOOD))
    (tmp_path / "raw/b.jsonl").write_bytes(lines(GOOD))
    shards, out = open_shards(str(tmp_path / "raw")), tmp_path / "out"
    shards = [dataclasses.replace(s, name=name if s.name == "a.jsonl" else s.name) for s in shards]
    run_shards(shards, out, {}, drop_even, "test")
    assert len(open_shards(str(out))) == 2
    whole = (out / name).read_bytes()
    for at in range(0, len(whole), 7):
        (out / name).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(JaxptError, match=rf"{name} is damaged: it is not what its step wrote"):
            open_shards(str(out))
    (out / name).write_bytes(whole)
    assert len(open_shards(str(out))) == 2
    note = out / f"manifests/{name}.json"
    earlier = {k: v for k, v in json.loads(note.read_text()).items() if k != "sha256"}
    note.write_text(json.dumps(earlier))  # of a version that kept no digest: damage is not noticed
    (out / name).write_bytes(whole + b"\n")
    assert len(open_shards(str(out))) == 2


def test_a_shard_without_its_manifest_is_missed(tmp_path):
    (tmp_path / "raw").mkdir()
    for name in "ab":
        (tmp_path / f"raw/{name}.jsonl").write_bytes(lines(GOOD))
    run_shards(open_shards(str(tmp_path / "raw")), tmp_path / "out", {}, drop_even, "test")
    (tmp_path / "out/manifests/b.jsonl.json").unlink()
    with pytest.raises(JaxptError, match=r"manifests has no b\.jsonl\.json"):
        open_shards(str(tmp_path / "out"))


def test_mistakes_name_the_file(tmp_path):
    with pytest.raises(JaxptError, match="no such file"):
        open_shards(str(tmp_path / "*.jsonl"))
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(JaxptError, match=r"a\.doc is of an unknown kind"):
        open_shards(str(tmp_path / "a.doc"))
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(lines(GOOD))[:-12])
    with pytest.raises(JaxptError, match="damaged archive"):
        list(open_shards(str(tmp_path / "t.jsonl.gz"))[0].rows())
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.jsonl").write_text("")
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(JaxptError, match="two files are called"):
        open_shards(f"{tmp_path}/a.jsonl,{tmp_path}/x/a.jsonl")


def test_a_step_that_an_earlier_version_began_goes_on_under_the_names_it_gave(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines(GOOD)))
    out, pattern = tmp_path / "out", f"{tmp_path}/*.gz"
    before = [replace(s, name=f"{s.name[:-4]}.gz") for s in open_shards(pattern)]  # as af7ccdc named them
    run_shards(before[:1], out, {}, drop_even, "test")
    made = outputs(out)
    (out / "removals/b.jsonl.gz.jsonl").write_text("")  # begun, and killed
    shards = open_shards(pattern, output=out)
    assert [s.name for s in shards] == ["a.jsonl.gz", "b.jsonl.gz"]
    run_shards(shards, out, {}, drop_even, "test")
    assert made.items() <= outputs(out).items()
    assert len(open_shards(str(out))) == 2
    assert [s.name for s in open_shards(pattern, output=tmp_path / "new")] == ["a.jsonl.zst", "b.jsonl.zst"]
    assert [s.name for s in open_shards(pattern, known=["b.jsonl.gz"])] == ["a.jsonl.zst", "b.jsonl.gz"]


def test_a_gz_beside_a_zst_of_its_name_keeps_its_own(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(GOOD)))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines(GOOD)))
    assert [s.name for s in open_shards(str(tmp_path))] == ["a.jsonl.gz", "a.jsonl.zst"]


def test_a_zst_that_is_cut_off_is_damaged_and_not_shorter(tmp_path):
    (tmp_path / "t.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines(GOOD))[:-2])
    with pytest.raises(JaxptError, match=r"t\.jsonl\.zst: damaged"):
        list(open_shards(str(tmp_path / "t.jsonl.zst"))[0].rows())
