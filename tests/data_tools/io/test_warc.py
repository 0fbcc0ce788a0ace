"""WARC archives with odd and damaged records: every page arrives or is in quarantine with its place, none vanishes."""

import gzip
import hashlib
import json
import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.__main__ import main
from data_tools.io.readers import BytesRead, Problem, read
from jaxpt.data.caps import RAW, Caps
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import train_sentencepiece

pytest.importorskip("resiliparse", reason="resiliparse is not installed (jaxpt[data])")
brotli = pytest.importorskip("brotli", reason="brotli is not installed (it comes with jaxpt[data])")

HTML = "Content-Type: text/html; charset=utf-8"


def text_of(number):
    return f"Page {number} speaks about größere things, at a length that is enough to be kept as the main content."


def page(number):
    head, text = "<head><meta charset='utf-8'></head>", f"<p>{text_of(number)}</p>" * 3
    return f"<!doctype html><html>{head}<body><article>{text}</article></body></html>".encode()


def record(block, number=0, kind="response", stated="application/http; msgtype=response", length=None):
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://site.example/{number}\r\n"
    head += f"Content-Type: {stated}\r\nContent-Length: {len(block) if length is None else length}\r\n\r\n"
    return head.encode() + block + b"\r\n\r\n"


def http(body, *head, status="HTTP/1.1 200 OK"):
    return "\r\n".join([status, *(head or (HTML,)), "", ""]).encode() + body


def chunked(body, size=100):
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def raw_deflate(body):
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(body) + deflate.flush()


def encoded(body, name, *more):
    return http(body, HTML, f"Content-Encoding: {name}", *more)


CHUNKED = "Transfer-Encoding: chunked"
P = page(3)
# what is odd about a page, and why it is in quarantine (None: it is read)
ODD = {
    "chunked and gzip": (encoded(chunked(gzip.compress(P)), "gzip", CHUNKED), None),
    "chunked": (http(chunked(P), HTML, CHUNKED), None),
    "chunked by single line feeds": (http(chunked(P).replace(b"\r\n", b"\n"), HTML, CHUNKED), None),
    "chunked already undone": (http(P, HTML, CHUNKED), None),
    "chunked undone, gzip left": (encoded(gzip.compress(P), "gzip", CHUNKED), None),
    "gzip undone, chunked left": (encoded(chunked(P), "gzip", CHUNKED), None),
    "gzip header over a plain body": (encoded(P, "gzip"), None),
    "gzip as transfer encoding": (http(chunked(gzip.compress(P)), HTML, "Transfer-Encoding: gzip, chunked"), None),
    "x-gzip": (encoded(gzip.compress(P), "x-gzip"), None),
    "gzip of two members": (encoded(gzip.compress(P[:100]) + gzip.compress(P[100:]), "gzip"), None),
    "gzip twice, said once": (encoded(gzip.compress(gzip.compress(P)), "gzip"), None),
    "gzip twice, said twice": (encoded(gzip.compress(gzip.compress(P)), "gzip, gzip"), None),
    "gzip, not said": (http(gzip.compress(P)), None),
    "gzip with something behind it": (encoded(gzip.compress(P) + b"\0\0\r\n", "GZIP"), None),
    "deflate of zlib": (encoded(zlib.compress(P), "deflate"), None),
    "raw deflate": (encoded(raw_deflate(P), "deflate"), None),
    "deflate undone": (encoded(P, "deflate"), None),
    "br": (encoded(brotli.compress(P), "br"), None),
    "br chunked": (encoded(chunked(brotli.compress(P)), "br", CHUNKED), None),
    "br undone": (encoded(P, "br"), None),
    "zstd": (encoded(zstandard.ZstdCompressor().compress(P), "zstd"), None),
    "zstd of two frames": (
        encoded(b"".join(zstandard.ZstdCompressor().compress(p) for p in (P[:100], P[100:])), "zstd"),
        None,
    ),
    "a charset as encoding": (encoded(P, "UTF-8"), None),
    "HTTP Content-Length too small": (http(P, HTML, "Content-Length: 5"), None),
    "HTTP Content-Length too large": (http(P, HTML, "Content-Length: 50000000"), None),
    "unknown charset": (http(P, "Content-Type: text/html; charset=nonsense"), None),
    "charset that is none of text": (http(P, "Content-Type: text/html; charset=hex"), None),
    "no content type": (http(P, "Server: x"), None),
    "content type in capitals": (http(P, 'content-type: TEXT/HTML;Charset="UTF-8"'), None),
    "status line without reason": (http(P, status="HTTP/1.1 200"), None),
    "HTTP/2": (http(P, status="HTTP/2 200"), None),
    "status that is not a number": (http(P, status="HTTP/1.1 OK"), None),
    "header of 1 MB": (http(P, HTML, "X-Long: " + "x" * (1 << 20)), None),
    "header of 100,000 lines": (http(P, HTML, *["X-Many: 1"] * 100_000), None),
    "header lines without a colon": (http(P, HTML, "nonsense", ": nothing", ""[:0] or "more nonsense"), None),
    "folded header": (http(P, "Content-Type:", "\ttext/html; charset=utf-8"), None),
    "header by single line feeds": (http(P).replace(b"\r\n", b"\n"), None),
    "header in latin-1": (http(P, HTML).replace(b"charset", b"x=\xe9; charset", 1), None),
    "no HTTP header": (P, None),
    "empty": (b"", "no HTTP header"),
    "empty body": (http(b""), "no text in the page"),
    "empty gzip body": (encoded(b"", "gzip"), "no text in the page"),
    "a header alone": (b"HTTP/1.1 200 OK\r\nContent-Type: text/html", "the HTTP header has no end"),
    "binary without header": (b"\x00\x01\x02", "no HTTP header"),
    "gzip cut off": (encoded(gzip.compress(P)[:-20], "gzip"), "the gzip body is cut off"),
    "gzip flipped": (encoded(gzip.compress(P)[:-8] + b"\0" * 8, "gzip"), "the gzip body is damaged"),
    "chunked cut off": (http(chunked(P)[:-50], HTML, CHUNKED), "the chunked body breaks off after"),
    "one chunk cut off": (http(chunked(P, 10_000)[:200], HTML, CHUNKED), "the chunked body breaks off after"),
    "deflate cut off": (encoded(zlib.compress(P)[:-20], "deflate"), "the deflate body is cut off"),
    "br cut off": (encoded(brotli.compress(P)[:-10], "br"), "the br body is cut off"),
    "zstd cut off": (encoded(zstandard.ZstdCompressor().compress(P)[:-10], "zstd"), "the zstd body is cut off"),
    "unknown encoding": (encoded(b"\x1f\x9d\x90" + bytes(range(256)), "compress"), "unknown encoding 'compress'"),
    "gzip header over zlib": (
        encoded(zlib.compress(P), "gzip"),
        "encoding gzip, but the body is neither gzip nor text",
    ),
    "not found": (http(P, status="HTTP/1.1 404 Not Found"), "HTTP status 404"),
    "a picture": (http(b"\x89PNG", "Content-Type: image/png"), "content type image/png"),
}


def packed(records, how):
    if how == "":
        return b"".join(records)
    if how == ".zst":
        return b"".join(map(zstandard.ZstdCompressor().compress, records))
    return gzip.compress(b"".join(records)) if how == "whole.gz" else b"".join(map(gzip.compress, records))


def archive(tmp_path, records, how=".gz"):
    path = tmp_path / f"crawl.warc{how.removeprefix('whole')}"
    path.write_bytes(packed(records, how))
    return str(path)


def found_in(path, caps=RAW):
    found = list(read(path, "text", BytesRead(), caps))
    good = {f[1]["url"].rsplit("/", 1)[-1]: f[1]["text"] for f in found if not isinstance(f, Problem)}
    assert all(text.count(text_of(int(n))) == 3 for n, text in good.items())
    return sorted(map(int, good)), [f for f in found if isinstance(f, Problem)]


def ten(odd=None, at=3):
    return [record(odd if i == at and odd is not None else http(page(i)), i) for i in range(10)]


@pytest.mark.parametrize("how", ["", ".gz", "whole.gz", ".zst"])
def test_ten_good_pages_arrive_in_order_from_every_kind_of_archive(tmp_path, how):
    others = [
        record(b"GET / HTTP/1.1\r\n\r\n", 0, "request"),
        record(b"a: b", 0, "metadata", "application/warc-fields"),
    ]
    path = archive(tmp_path, [record(b"software: x\r\n", 0, "warcinfo"), *others, *ten()], how)
    found = list(read(path, "text", BytesRead()))
    assert [place for place, _ in found] == list(range(10))
    assert [row["url"] for _, row in found] == [f"http://site.example/{i}" for i in range(10)]
    assert found_in(path) == (list(range(10)), [])


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("how", ["", ".gz"])
def test_an_odd_page_is_read_or_in_quarantine_and_the_nine_others_arrive(tmp_path, how, name):
    block, reason = ODD[name]
    records = ten(block)
    good, problems = found_in(archive(tmp_path, records, how))
    assert good == [i for i in range(10) if i != 3 or reason is None]
    assert len(problems) == (reason is not None)
    for problem in problems:
        offset = len(packed(records[:3], how))
        assert problem.place == 3
        assert problem.reason.startswith(reason)
        assert problem.reason.endswith(f": http://site.example/3 (record at byte {offset:,})")
        assert "\n" not in problem.reason
        assert len(problem.reason) < 500
        assert "größere" not in problem.reason + problem.start


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(ODD)), max_size=10), st.sampled_from(["", ".gz", "whole.gz", ".zst"]), st.randoms()
)
def test_whatever_odd_pages_are_mixed_in_all_good_ones_arrive(tmp_path_factory, names, how, random):
    blocks = [(http(page(i)), None) for i in range(10, 16)] + [ODD[n] for n in names]
    random.shuffle(blocks)
    numbers = [int(b.split(b"Page ")[1].split()[0]) if b"Page " in b else 3 for b, _ in blocks]
    path = archive(tmp_path_factory.mktemp("w"), [record(b, n) for (b, _), n in zip(blocks, numbers)], how)
    found = list(read(path, "text", BytesRead()))
    assert len(found) == len(blocks)
    for place, (item, (_, reason)) in enumerate(zip(found, blocks)):
        assert isinstance(item, Problem) == (reason is not None)
        assert (item.place if isinstance(item, Problem) else item[0]) == place


def test_resources_and_conversions_are_pages_and_an_unknown_type_is_in_quarantine(tmp_path):
    records = [
        record(page(0), 0, "resource", "text/html"),
        record(f"{text_of(1)}\n\n{text_of(1)}\n{text_of(1)}".encode(), 1, "conversion", "text/plain"),
        record(http(page(2)), 2, "nonsense"),
        record(http(page(3)), 3).replace(b"WARC-Type: response\r\n", b""),
        record(http(page(4)), 4).replace(b"WARC-Type", b"WARC-Segment-Number: 1\r\nWARC-Type"),
        record(b"1.2.3.4", 5, stated="text/dns"),
    ]
    good, problems = found_in(archive(tmp_path, records))
    assert good == [0, 1]
    reasons = [
        "record of unknown type 'nonsense'",
        "record of unknown type ''",
        "part of a page that is stored in parts",
    ]
    assert [p.reason.split(":")[0] for p in problems] == [*reasons, "content type text/dns"]


@pytest.mark.parametrize("name", ["crawl.warc.wet.gz", "crawl.wet.gz", "crawl.warc.wet", "crawl.warc.wet.zst"])
def test_the_names_of_wet_files_are_read(tmp_path, name):
    rows = [record(text_of(i).encode(), i, "conversion", "text/plain") for i in range(3)]
    how = {"gz": ".gz", "zst": ".zst"}.get(name.rsplit(".", 1)[-1], "")
    (tmp_path / name).write_bytes(packed(rows, how))
    assert (
        main(["clean", f"--input={tmp_path}", f"--output={tmp_path}-out", "--preset=gopher", "--set=words.least=1"])
        == 0
    )
    manifest = json.loads(next((tmp_path.parent / f"{tmp_path.name}-out/manifests").iterdir()).read_text())
    assert (manifest["rows"], manifest["quarantined"]) == (3, 0)


DAMAGE = {
    "a flipped byte in a member": lambda m: m[:40] + bytes([m[40] ^ 0x10]) + m[41:],
    "a wrong checksum": lambda m: m[:-8] + b"\0\0\0\0" + m[-4:],
    "a member without its beginning": lambda m: m[30:],
    "a member without its end": lambda m: m[:-30],
    "zeros in a member": lambda m: m[:60] + bytes(200) + m[260:],
    "something between members": lambda m: b"garbage, not a member at all" * 10,
}


@pytest.mark.parametrize("how", [".gz", ".zst"])
@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("at", [0, 4])
def test_damage_costs_its_own_record_and_is_reported_with_its_place(tmp_path, how, name, at):
    members = [packed([r], how) for r in ten()]
    if how == ".zst":  # frames with a checksum, as the tool writes them
        members = [zstandard.ZstdCompressor(write_checksum=True).compress(r) for r in ten()]
        if name == "a wrong checksum":
            members[at] = members[at][:-4] + b"\0\0\0\0"
    if not (how == ".zst" and name == "a wrong checksum"):
        members[at] = DAMAGE[name](members[at])
    path = tmp_path / f"crawl.warc{how}"
    path.write_bytes(b"".join(members))
    good, problems = found_in(str(path))
    assert good == [i for i in range(10) if i != at]
    assert len(problems) == 1
    assert problems[0].place == at
    assert f"byte {sum(map(len, members[:at])):,}" in problems[0].reason


@pytest.mark.parametrize("how", ["", "whole.gz"])
def test_bytes_between_records_are_reported_and_passed_over(tmp_path, how):
    records = ten()
    records.insert(4, b"what is this?\r\n\r\nWARC, but none\r\n" * 20)
    good, problems = found_in(archive(tmp_path, records, how))
    assert good == list(range(10))
    assert [p.reason.split(" (")[0] for p in problems] == [f"{len(records[4]):,} bytes that are not a record"]
    assert problems[0].place == 4


@pytest.mark.parametrize("how", ["", ".gz", "whole.gz"])
@pytest.mark.parametrize("at", [0, 4, 9])
@pytest.mark.parametrize("length", [10, 1_500, 100_000, 10**15, "", "nonsense", -5])
def test_a_wrong_length_in_a_record_costs_that_record_only(tmp_path, how, at, length):
    records = ten()
    records[at] = record(http(page(at)), at, length=length)
    path = archive(tmp_path, records, how)
    if (how == "" and at == 9 and length in (1_500, 100_000)) or (length == 10**15 and (how != ".gz" or at == 9)):
        with pytest.raises(JaxptError, match=r"damaged archive \(.*(bytes are there, at byte|are missing)"):
            found_in(path)
        return
    good, problems = found_in(path)
    assert good == [i for i in range(10) if i != at]
    assert [p.place for p in problems] == [at]


@pytest.mark.parametrize("how", ["", ".gz", "whole.gz", ".zst"])
def test_a_file_that_ends_early_is_never_silently_complete(tmp_path, how):
    data = packed(ten(), how)
    whole = {len(packed(ten()[:i], how)) for i in range(11)} if how != "whole.gz" else {0, len(data)}
    path = tmp_path / f"cut.warc{how.removeprefix('whole')}"
    for cut in range(1, len(data) - 4, 97):
        if cut in whole:
            continue
        path.write_bytes(data[:cut])
        seen = []
        with pytest.raises(JaxptError, match=r"damaged archive \(.*replace the file or leave it out") as raised:  # noqa: PT012
            for found in read(str(path), "text", BytesRead()):
                seen.append(found)
        assert f"{len(seen):,} records come before it" in str(raised.value)
        assert "\n" not in str(raised.value)


def test_what_is_no_archive_is_refused_in_one_line(tmp_path):
    for name, data in {
        "a.warc": b"<html>" * 99,
        "b.warc.gz": b"WARC/1.0\r\n",
        "c.warc.gz": gzip.compress(b"x" * 99),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(JaxptError, match="damaged archive"):
            list(read(str(tmp_path / name), "text", BytesRead()))
    (tmp_path / "empty.warc.gz").write_bytes(b"")
    assert list(read(str(tmp_path / "empty.warc.gz"), "text", BytesRead())) == []


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_a_page_that_unpacks_to_more_than_is_read_takes_no_memory(tmp_path, name):
    bomb = b"<p>" + bytes(200 << 20)
    how = {"gzip": gzip.compress, "deflate": zlib.compress, "br": lambda b: brotli.compress(b, quality=1)}
    data = how.get(name, zstandard.ZstdCompressor().compress)(bomb)
    path = archive(tmp_path, ten(encoded(data, name)))
    del bomb
    tracemalloc.start()
    good, problems = found_in(path, Caps(1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert good == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert "page longer than 1,048,576 bytes" in problems[0].reason
    assert peak < 100 << 20


def test_a_record_longer_than_is_read_is_passed_over_in_small_memory(tmp_path):
    path = archive(tmp_path, ten(http(bytes(100 << 20))))
    tracemalloc.start()
    good, problems = found_in(path, Caps(1 << 20))
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()
    assert good == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert "are read" in problems[0].reason


@pytest.mark.parametrize("command", ["clean", "extract", "dedup", "tokenize"])
def test_every_command_says_how_many_pages_are_in_quarantine(tmp_path, capsys, command):
    (tmp_path / "in").mkdir()
    if command == "tokenize":
        train_sentencepiece([text_of(i) for i in range(50)], tmp_path / "tokenizer.model", 300)
    archive(tmp_path / "in", ten(encoded(gzip.compress(P)[:-20], "gzip")))
    more = {
        "clean": ["--preset=gopher", "--set=words.least=1"],
        "dedup": ["--exact_only"],
        "tokenize": [f"--tokenizer={tmp_path}/tokenizer.model"],
    }
    assert main([command, f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", *more.get(command, [])]) == 0
    manifest = json.loads((tmp_path / "out/manifests/crawl.warc.jsonl.zst.json").read_text())
    assert (manifest.get("rows", manifest.get("documents")), manifest["quarantined"]) == (9, 1)
    kept = [json.loads(l) for l in (tmp_path / "out/quarantine/crawl.warc.jsonl.zst.jsonl").read_text().splitlines()]
    assert [(k["place"], k["reason"].split(":")[0]) for k in kept] == [(3, "the gzip body is cut off")]
    lines = capsys.readouterr().out.splitlines()
    assert any("1 of 10" in l for l in lines if l.startswith("not records")) or command == "extract"
    if command == "extract":
        assert [l.split() for l in lines if l.startswith("crawl")] == [["crawl.warc.jsonl.zst", "9", "9", "1"]]


def test_what_an_earlier_version_made_of_an_archive_is_made_again(tmp_path):
    (tmp_path / "in").mkdir()
    path = Path(archive(tmp_path / "in", ten(encoded(chunked(gzip.compress(P)), "gzip", CHUNKED))))
    flags = ["extract", f"--input={path}", f"--output={tmp_path / 'out'}"]
    assert main(flags) == 0
    note = tmp_path / "out/manifests/crawl.warc.jsonl.zst.json"
    made = json.loads(note.read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()  # the manifest of af7ccdc, which read 4 of the 10 pages
    note.write_text(json.dumps({**made, "rows": 4, "kept": 4, "input": digest}))
    assert main(flags) == 0
    assert json.loads(note.read_text()) == made
    assert made["rows"] == 10


def test_a_page_that_vanishes_is_noticed_by_these_tests(tmp_path, monkeypatch):  # the proofs above can fail
    path = archive(tmp_path, ten())
    monkeypatch.setattr("data_tools.io.warc.fields", lambda lines: {"content-length": str(1 << 40)})
    with pytest.raises(JaxptError, match="damaged archive"):
        found_in(path)
    monkeypatch.undo()
    monkeypatch.setattr("data_tools.io.html.PAGES", ())
    assert found_in(path)[0] != list(range(10))


def test_a_page_file_longer_than_is_read_is_in_quarantine_not_cut(tmp_path):
    (tmp_path / "a.html").write_bytes(page(1) + b" " * 2_000)
    (found,) = read(str(tmp_path / "a.html"), "text", BytesRead(), Caps(1000))
    assert found.reason == "file longer than 1000 bytes"
