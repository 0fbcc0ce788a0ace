"""The commands on real text: each does its job, says what it did, and fails in one line."""

import gzip
import json

import numpy as np
import pytest

from data_tools.commands import classify, decontaminate, dedup, longdoc, perplexity
from jaxpt.errors import JaxptError
from jaxpt.files.compressed import decompressed


def read(path):
    with path.open("rb") as raw:
        return [json.loads(line) for line in decompressed(raw, path.name)]


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def words(rng, count):
    return " ".join(f"w{i}" for i in rng.integers(0, 9999, count))


def test_dedup_writes_the_kept_and_shows_each_removal_next_to_what_it_repeats(tmp_path, capsys):
    rng = np.random.default_rng(0)
    texts = [words(rng, 120) for _ in range(20)]
    write(tmp_path / "a.jsonl", [{"id": f"a{i}", "text": t} for i, t in enumerate(texts)])
    write(tmp_path / "b.jsonl", [{"id": "copy", "text": texts[3]}, {"id": "near", "text": texts[5] + " end"}])
    args = [
        f"--input={tmp_path}/a.jsonl,{tmp_path}/b.jsonl",
        f"--output={tmp_path}/out",
        "--engine=numpy",
        "--alarm=0.4",
    ]
    assert dedup.main(args) == 0
    kept = [r["id"] for n in "ab" for r in read(tmp_path / f"out/{n}.jsonl")]
    assert len(kept) == 20
    removed = [r for n in "ab" for r in read(tmp_path / f"out/removals/{n}.jsonl.jsonl")]
    assert {(r["id"], r["rule"], r["of_id"]) for r in removed} == {
        ("copy", "dedup-exact", "a3"),
        ("a5", "dedup-near", "near"),  # the longer one survives
    }
    assert all(r["excerpt"][:100] == r["of_excerpt"][:100] for r in removed)
    assert "warning: b.jsonl lost 50%" in capsys.readouterr().out


def test_dedup_of_paragraphs_edits_documents_and_keeps_their_other_fields(tmp_path):
    rng = np.random.default_rng(1)
    notice = words(rng, 40)
    rows = [{"id": i, "text": f"{words(rng, 40)}\n\n{notice}\n\n{words(rng, 5)}", "score": i} for i in range(3)]
    write(tmp_path / "a.jsonl", rows)
    base = [f"--input={tmp_path}/a.jsonl", f"--output={tmp_path}/out", "--engine=numpy", "--unit=paragraph"]
    assert dedup.main([*base, "--least_tokens=10"]) == 0
    found = read(tmp_path / "out/a.jsonl")
    assert [r["score"] for r in found] == [0, 1, 2]
    assert found[0] == rows[0]
    assert [notice in r["text"] for r in found] == [True, False, False]
    assert found[1]["text"].split("\n\n") == [p for p in rows[1]["text"].split("\n\n") if p != notice]


def test_decontaminate_drops_planted_items_and_reports_them(tmp_path, shared, capsys):
    web = read(shared / "data/noisy_web/c4_demo.jsonl.gz")[:50]
    exam = read(shared / "data/eval/gsm8k_test.jsonl.gz")[:20]
    web[7]["text"] = f"{web[7]['text']} {exam[3]['text']}"
    write(tmp_path / "web.jsonl", web)
    write(tmp_path / "gsm8k.jsonl", exam)
    args = [f"--input={tmp_path}/web.jsonl", f"--output={tmp_path}/out", f"--eval={tmp_path}/gsm8k.jsonl"]
    assert decontaminate.main(args) == 0
    removed = read(tmp_path / "out/removals/web.jsonl.jsonl")
    assert [r["id"] for r in removed] == [web[7]["id"]]
    assert removed[0]["matches"][0][2] == exam[3]["id"]
    assert "20 items" in capsys.readouterr().out
    assert len(read(tmp_path / "out/web.jsonl")) == 49


def test_classify_trains_judges_and_keeps_the_best_quantile(tmp_path, shared, capsys):
    pytest.importorskip("fasttext")
    spam = shared / "data/labelled/sms_spam.jsonl.gz"
    model = tmp_path / "spam.bin"
    train = [f"--train={spam}", f"--model={model}", "--recipe=quality"]
    assert classify.main([*train, "--set=positive=ham", "--set=dim=16", "--set=bucket=50000"]) == 0
    assert "accuracy 0.9" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "spam.bin.heldout.html").read_text()
    out = tmp_path / "kept"
    assert classify.main([f"--input={spam}", f"--model={model}", f"--output={out}", "--keep=0.5"]) == 0
    kept = read(out / "sms_spam.jsonl.zst")
    assert len(kept) == pytest.approx(5574 / 2, rel=0.05)
    assert sum(r["label"].strip() == "ham" for r in kept) / len(kept) > 0.98
    with pytest.raises(JaxptError, match="top_tokens"):
        classify.main([f"--seed={spam}", f"--input={spam}", f"--output={out}"])
    with pytest.raises(JaxptError, match="'topic'"):
        classify.main([f"--train={spam}", f"--model={model}", "--recipe=topics"])


def test_perplexity_cuts_both_tails_and_keeps_what_it_cannot_judge(tmp_path, shared):
    web = shared / "data/noisy_web/redpajama_c4-rp_1.jsonl.gz"
    rows = read(web)[:400]
    rows[0] = {**rows[0], "lang": "xx"}
    write(tmp_path / "web.jsonl", rows)
    args = [f"--input={tmp_path}/web.jsonl", f"--output={tmp_path}/out", "--low=0.1", "--high=0.8"]
    assert perplexity.main([*args, f"--train={shared}/data/noisy_web/c4_demo.jsonl.gz"]) == 0
    kept = read(tmp_path / "out/web.jsonl")
    removed = read(tmp_path / "out/removals/web.jsonl.jsonl")
    counts = [sum(r["rule"] == f"perplexity-{side}" for r in removed) for side in ("low", "high")]
    assert counts == [40, 80]
    assert ["perplexity" in r for r in kept if r["lang"] == "xx"] == [False]
    with pytest.raises(JaxptError, match="--train"):
        perplexity.main(args)


def test_longdoc_joins_repositories_links_and_picks_books(tmp_path, shared):
    write(tmp_path / "r.jsonl", [
        {"repo": "x", "path": "b.py", "text": "import a", "source": "code"},
        {"repo": "x", "path": "a.py", "text": "A = 1", "source": "code"},
    ])  # fmt: skip
    assert longdoc.main([f"--input={tmp_path}/r.jsonl", f"--output={tmp_path}/repos", "--how=repositories"]) == 0
    assert read(tmp_path / "repos/long.jsonl")[0]["text"] == "# a.py\nA = 1\n\n# b.py\nimport a\n\n"
    write(tmp_path / "l.jsonl", [
        {"url": "https://s.org/1", "text": "one [next](/2)"},
        {"url": "https://s.org/2", "text": "two"},
        {"url": "https://s.org/3", "text": "three"},
    ])  # fmt: skip
    assert longdoc.main([f"--input={tmp_path}/l.jsonl", f"--output={tmp_path}/links", "--how=links"]) == 0
    assert sorted(len(r["urls"]) for r in read(tmp_path / "links/long.jsonl")) == [1, 2]
    write(
        tmp_path / "twice.jsonl", [{"url": "https://s.org/1", "text": "again"}, {"text": "nowhere"}, {"url": "s.org/1"}]
    )
    args = [f"--input={tmp_path}/l.jsonl,{tmp_path}/twice.jsonl", f"--output={tmp_path}/twice", "--how=links"]
    assert longdoc.main(args) == 0
    assert [r["rule"] for r in read(tmp_path / "twice/removals/long.jsonl")] == ["longdoc-same-url"]
    reasons = [r["reason"] for r in read(tmp_path / "twice/quarantine/long.jsonl")]
    assert sorted(reasons) == ["field 'text' is missing", "no string field 'url'"]
    with pytest.raises(JaxptError, match="none of 3 lines is a record"):
        longdoc.main([f"--input={tmp_path}/l.jsonl", f"--output={tmp_path}/x", "--how=repositories"])


def test_longdoc_picks_what_needs_its_length_and_says_why_the_rest_went(tmp_path, shared):
    books = read(shared / "data/english/books.jsonl.gz")[:4]
    rows = [{"id": r["id"], "source": "book", "text": r["text"][:60_000]} for r in books]
    rows += [{"id": "log", "source": "log", "text": "GET /index.html 200\nGET /style.css 200\n" * 3000}]
    rows += [{"id": "short", "source": "web", "text": "too short"}]
    write(tmp_path / "a.jsonl", rows)
    args = [f"--input={tmp_path}/a.jsonl", f"--output={tmp_path}/out", "--how=select"]
    assert longdoc.main(args) == 0
    kept = read(tmp_path / "out/a.jsonl")
    assert [r["id"] for r in kept] == [r["id"] for r in books]
    assert all(r["dependence"]["gain"] > 0 for r in kept)
    removed = {r["id"]: r["rule"] for r in read(tmp_path / "out/removals/a.jsonl.jsonl")}
    assert removed == {"log": "longdoc-lines", "short": "longdoc-short"}
    report = json.loads((tmp_path / "out/longdoc.json").read_text())
    assert report["weights"] == {"book": 1.0}
    assert report["before"]["domains"]["log"] > 0


def test_bad_lines_are_counted_and_a_mistyped_field_is_one_line(tmp_path, capsys):
    rows = [{"id": str(i), "text": f"words that are number {i} of these " * 9, "label": i % 2} for i in range(40)]
    write(tmp_path / "a.jsonl", rows)
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b'{"id": "b", "text": 7}\n{"text": "half\n\xff\xfe\n[1]\n')
    base = f"--input={tmp_path}/a.jsonl"
    runs = {
        "dedup": (dedup, [base, "--engine=numpy"]),
        "decontaminate": (decontaminate, [base, f"--eval={tmp_path}/a.jsonl"]),
        "perplexity": (perplexity, [base, f"--train={tmp_path}/a.jsonl", "--least=10"]),
    }
    for name, (command, args) in runs.items():
        assert command.main([*args, f"--output={tmp_path}/{name}"]) == 0
        assert "not records: 4 of 44 lines" in capsys.readouterr().out
        assert len(read(tmp_path / name / "quarantine/a.jsonl.jsonl")) == 4
        with pytest.raises(JaxptError, match="'txt'"):
            command.main([*args, f"--output={tmp_path}/{name}-2", "--text_field=txt"])
    with pytest.raises(SystemExit) as stopped:
        dedup.main(["--inptu=x"])
    assert stopped.value.code == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("jaxpt-data dedup: there is no flag --inptu (did you mean '--input'?)")
    )


def test_a_store_of_an_earlier_version_knows_its_shards_by_their_names_of_then(tmp_path):
    rows = [{"text": f"{i} " + " ".join(f"w{i * k}" for k in range(40))} for i in range(9)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    flags = [f"--input={tmp_path}/a.jsonl.gz", "--engine=numpy", f"--store={tmp_path}/store"]
    assert dedup.main([*flags, f"--output={tmp_path}/new"]) == 0
    assert len(read(tmp_path / "new/a.jsonl.zst")) == 9
    note = tmp_path / "store/store.json"
    note.write_text(note.read_text().replace("a.jsonl.zst", "a.jsonl.gz"))
    assert dedup.main([*flags, f"--output={tmp_path}/again"]) == 0
    assert len(read(tmp_path / "again/a.jsonl.gz")) == 9  # not copies of themselves
    assert len(json.loads(note.read_text())["shards"]) == 1
