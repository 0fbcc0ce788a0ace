"""Every kind of input, local and remote, and what bad input does: it is counted, put aside and never stops a run."""

import gzip
import io
import json

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_tools.io import storage
from data_tools.io.batch import Outcome, Removed, texts
from data_tools.shards import records
from data_tools.shards.records import Problem, open_shards, removals, run_shards
from jaxpt.errors import JaxptError

NAVIGATION = "<nav><a href='/'>Home</a> <a href='/b'>Blog</a></nav>"
PAGE = "<html><head><title>t</title></head><body>" + NAVIGATION + "<article>{}</article></body></html>"
TEXT = "<p>The first paragraph of a long enough article about größere things.</p><p>And the second one, as long.</p>"


class KeepLong:
    """Drops texts of fewer than three characters; can be pickled."""

    def __call__(self, batch, place):
        gone = [Removed(i, "short", len(t)) for i, t in enumerate(texts(batch)) if len(t) < 3]
        return Outcome.of(batch, gone, statistics={"short": np.array([len(t) for t in texts(batch)], float)})


def everything(folder):
    fs, inner = fsspec.core.url_to_fs(str(folder))
    return {f.split(inner.strip("/"), 1)[-1]: fs.cat_file(f) for f in fs.find(inner)}


def warc(records):
    pytest.importorskip("fastwarc", reason="FastWARC is not installed (jaxpt[data])")
    from fastwarc.stream_io import WarcWriter
    from fastwarc.warc import WarcRecord, WarcRecordType

    out = io.BytesIO()
    for i, (head, body) in enumerate(records):
        record = WarcRecord()
        record.init_headers(WarcRecordType.response, record_urn=b"<urn:uuid:%032d>" % i)
        record.headers["WARC-Target-URI"] = f"http://site.example/{i}"
        record.headers["Content-Type"] = "application/http; msgtype=response"
        record.set_bytes_content(head.encode() + b"\r\n\r\n" + body)
        record.write(out)
    assert WarcWriter
    return out.getvalue()


def test_a_line_is_what_python_s_json_reads_or_is_set_aside(tmp_path):
    values = [
        "NaN",
        "-Infinity",
        "1e400",
        "1e22",
        "-0",
        "-0.0",
        "0.1",
        "5e-324",
        "123456789012345678901234567890",
        "18446744073709551616",
    ]
    values += [
        '"\\ud83d"',
        '"\\ud83d\\ude00"',
        '"\\u0000\\/"',
        '"\x7f"',
        '{"a": 1, "a": 2}',
        "[" * 50 + "]" * 50,
        "null",
    ]
    good = [f' {{"text": "t", "v": {value}}}\r' for value in values]
    bad = ['{"text": "t", "v": 01}', '{"text": "\t"}', '{"text": "t"} x', '{"text": "\\x"}', "\x0b{}", "[" * 100_000]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(good + bad).encode() + b'\n{"text": "\xff"}\n')
    (shard,) = open_shards(str(path))
    read = list(shard.records())
    assert repr(read[: len(good)]) == repr([json.loads(line) for line in good])
    assert all(isinstance(problem, Problem) for problem in read[len(good) :])
    assert len(read) == len(good) + len(bad) + 1
    assert read[-1].reason == "invalid UTF-8"


def test_a_warc_file_gives_its_pages_and_says_why_others_give_none(tmp_path):
    html = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={}"
    data = warc(
        [
            (html.format("utf-8"), PAGE.format(TEXT).encode()),
            (html.format("iso-8859-1"), PAGE.format(TEXT).encode("latin-1")),
            ("HTTP/1.1 404 Not Found\r\nContent-Type: text/html", b"<p>no such page</p>"),
            ("HTTP/1.1 200 OK\r\nContent-Type: image/png", b"\x89PNG"),
            (html.format("utf-8"), b""),
        ]
    )
    (tmp_path / "crawl.warc.gz").write_bytes(gzip.compress(data))
    shard = open_shards(str(tmp_path / "crawl.warc.gz"))[0]
    found = list(shard.records())
    assert [r["url"] for r in found[:2]] == ["http://site.example/0", "http://site.example/1"]
    assert all("größere" in r["text"] and "Blog" not in r["text"] for r in found[:2])
    assert [p.reason.split(":")[0] for p in found[2:]] == [
        "HTTP status 404",
        "content type image/png",
        "no text in the page",
    ]
    manifest = run_shards([shard], tmp_path / "out", {}, KeepLong(), "test")[0]
    assert (manifest["name"], manifest["kept"], manifest["quarantined"]) == ("crawl.warc.jsonl.zst", 2, 3)
    (tmp_path / "cut.warc.gz").write_bytes(gzip.compress(data)[:-20])
    with pytest.raises(JaxptError, match="damaged archive"):
        list(open_shards(str(tmp_path / "cut.warc.gz"))[0].records())


def test_pages_and_plain_text_are_one_record_a_file(tmp_path):
    pytest.importorskip("resiliparse", reason="resiliparse is not installed (jaxpt[data])")
    (tmp_path / "a.html").write_text(PAGE.format(TEXT))
    (tmp_path / "b.txt").write_text("plain\ntext")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"\xff\xfe\xff"))
    shards = open_shards(str(tmp_path))
    assert [s.name for s in shards] == ["a.html.jsonl.zst", "b.txt.jsonl.zst", "c.txt.jsonl.zst"]
    a, b, c = (next(iter(s.records())) for s in shards)
    assert a["text"].startswith("The first paragraph")
    assert b == {"text": "plain\ntext", "path": "b.txt"}
    assert isinstance(c, Problem)


def test_extraction_finds_the_articles_of_real_pages(shared):
    pytest.importorskip("resiliparse", reason="resiliparse is not installed (jaxpt[data])")
    import re
    from collections import Counter

    from data_tools.io.html import main_text

    scores = []
    with gzip.open(shared / "data/noisy_web/html_readability_pages.jsonl.gz") as file:
        for row in map(json.loads, file):
            plain = re.sub(r"<[^>]+>", " ", row["expected_html"])
            found, want = (Counter(re.findall(r"\w+", t)) for t in (main_text(row["text"]), plain))
            scores.append(2 * sum((found & want).values()) / max(sum(found.values()) + sum(want.values()), 1))
    assert len(scores) == 52
    assert np.mean(scores) > 0.9
    assert np.mean(np.array(scores) > 0.8) > 0.9


def test_parquet_keeps_its_columns_and_types_and_puts_rows_without_text_aside(tmp_path):
    rows = {"text": ["long text", None, "x"], "when": pa.array([1, 2, 3], pa.timestamp("ms")), "n": [[1], [], None]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": pa.array([1, 2])}), tmp_path / "b.parquet")
    first, second = run_shards(open_shards(str(tmp_path)), tmp_path / "out", {}, KeepLong(), "test")
    assert (first["rows"], first["kept"], first["quarantined"], first["removed"]) == (2, 1, 1, {"short": 1})
    assert (second["rows"], second["quarantined"]) == (0, 2)
    out = pq.read_table(tmp_path / "out/a.parquet")
    assert out.schema.field("when").type == pa.timestamp("ms")
    assert out.drop_columns("when").to_pylist() == [{"text": "long text", "n": [1]}]


def test_inputs_and_outputs_on_an_object_store(tmp_path):
    lines = "".join(json.dumps({"text": t, "source": "s"}) + "\n" for t in ("long", "x", "more")).encode()
    store = fsspec.filesystem("memory")
    store.pipe_file("/in/a.jsonl.zst", zstandard.ZstdCompressor().compress(lines))
    shards = open_shards("memory://in/*.zst")
    manifest = run_shards(shards, "memory://out/step", {}, KeepLong(), "test")[0]
    assert (manifest["kept"], manifest["sources"]["s"]["removed"]["short"]["words"]) == (2, 1)
    assert [r["text"] for r in open_shards("memory://out/step")[0].rows()] == ["long", "more"]
    assert [r["rule"] for r in removals("memory://out/step", [manifest])] == ["short"]
    first = everything("memory://out/step")
    run_shards(shards, tmp_path / "out", {}, KeepLong(), "test")
    assert everything(tmp_path / "out") == first
    assert run_shards(shards, "memory://out/step", {}, None, "test") == [manifest]  # done: the step is not called


def test_workers_never_change_an_output(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SMALL", 0)
    for name in "abc":
        rows = [json.dumps({"text": name * (i % 7), "id": str(i)}) for i in range(200)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*rows, "{broken"]))
    shards = open_shards(str(tmp_path / "*.jsonl"))
    one = run_shards(shards, tmp_path / "one", {}, KeepLong(), "test", workers=1)
    two = run_shards(shards, tmp_path / "two", {}, KeepLong(), "test", workers=2)
    assert one == two
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def test_an_empty_file_and_a_document_larger_than_a_batch(tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    big = "x" * (9 << 20)
    (tmp_path / "big.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in ("abc", big, "defg")))
    big_shard, empty = open_shards(str(tmp_path))
    assert [len(b) for b in big_shard.batches()] == [1, 1, 1]
    counts = run_shards([big_shard, empty], tmp_path / "out", {}, KeepLong(), "test")
    assert [(m["rows"], m["kept"]) for m in counts] == [(3, 3), (0, 0)]
    assert [len(r["text"]) for r in open_shards(str(tmp_path / "out"))[0].rows()] == [3, 9 << 20, 4]


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_file_that_was_not_finished_has_no_name(tmp_path, kind):
    path = f"{tmp_path}/a" if kind == "local" else "memory://half/a"

    def stopped():
        with storage.new_file(path) as file:
            file.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stopped()
    fs, inner = fsspec.core.url_to_fs(path)
    assert not fs.exists(inner)
