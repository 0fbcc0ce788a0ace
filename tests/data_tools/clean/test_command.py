"""The command end to end: what stays, what is written about what went, bad input, workers, mistakes."""

import gzip
import json

import pyarrow as pa
import pytest

from data_tools.__main__ import main
from data_tools.clean import pipeline, presets
from data_tools.clean.language import Shipped, identifier, sample
from data_tools.io.batch import BINS, from_rows
from jaxpt.files.compressed import decompressed

GOOD = (
    "The committee of the town met on Monday to talk about the new bridge that people have asked for since the flood. "
    "It will be built with stone and wood from the valley, and the work is to begin in spring. "
    "Many of those who live by the river said that they were glad to hear it. "
    "Others asked who would pay for all of this, and how long it would take. "
    "The mayor answered that the plan had been checked with care, and that the cost would be shared."
)
NOISE = "Home\nAbout\nContact\nHome\nAbout\nContact\n" * 8


def rows():
    out = []
    for i in range(40):
        text = GOOD if i % 4 else NOISE
        out.append(
            {"id": str(i), "source": "web" if i % 2 else "forum", "text": f"{text}\nMail me at user{i}@mail.org now."}
        )
    return out


def write(path, records, extra=b""):
    body = b"".join(json.dumps(r).encode() + b"\n" for r in records)
    path.write_bytes(gzip.compress(body + extra))


def read(path):
    return [json.loads(line) for line in decompressed(path.open("rb"), path.name)]


def outputs(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


OFF = ["--set=language.on=false"]


def test_a_run_tells_everything_that_went(tmp_path, capsys):
    write(tmp_path / "a.jsonl.gz", rows())
    out = tmp_path / "out"
    assert main(["clean", f"--input={tmp_path}/a.jsonl.gz", f"--output={out}", "--preset=fineweb", *OFF]) == 0
    printed = capsys.readouterr().out
    assert "warning: forum lost 50% " not in printed
    assert "forum" in printed
    manifest = json.loads((out / "manifests/a.jsonl.zst.json").read_text())
    assert (manifest["rows"], manifest["kept"]) == (40, 30)
    removals = [json.loads(l) for l in (out / "removals/a.jsonl.zst.jsonl").read_text().splitlines()]
    gone = [r for r in removals if r["whole"]]
    assert len(gone) == 10
    for line in gone:
        rule = manifest["rules"][line["rule"]]
        assert (rule["least"] is not None and line["value"] < rule["least"]) or line["value"] > rule["most"]
    masked = [r for r in removals if r["rule"] == "personal.email"]
    assert len(masked) == 30
    assert not any(r["whole"] for r in masked)
    kept = read(out / "a.jsonl.zst")
    assert all("<EMAIL>" in r["text"] and "@" not in r["text"] for r in kept)
    histograms = manifest["sources"]["web"]["histograms"]
    assert set(histograms) == set(manifest["rules"])
    assert all(len(h) == BINS and sum(h) == 20 for h in histograms.values())


def test_workers_and_batches_never_change_an_output(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / "raw").mkdir(exist_ok=True)
        write(tmp_path / f"raw/{name}.jsonl.gz", [{**r, "url": f"http://{name}.org/{i}"} for i, r in enumerate(rows())])
    flags = [f"--input={tmp_path}/raw/*.jsonl.gz", "--preset=harsh", *OFF, "--set=repair.on=false"]
    assert main(["clean", *flags, f"--output={tmp_path}/one"]) == 0
    assert main(["clean", *flags, f"--output={tmp_path}/two", "--workers=2"]) == 0
    one, two = outputs(tmp_path / "one"), outputs(tmp_path / "two")
    assert one.keys() == two.keys()
    same = [n for n in one if n.startswith(("a.", "b.", "c.", "removals", "lines")) and one[n] == two[n]]
    assert len(same) == 10  # 3 shards, 3 removals, 3 counts of lines and the frequent ones


def test_bad_input_is_counted_and_quarantined_and_the_run_goes_on(tmp_path):
    bad = [b"{broken", b'{"id": 1}', b'{"text": 7}', b'{"text": "\xff\xfe"}']
    odd = [{"text": t} for t in ("", "\x00\x00 \x00", " \n\t" * 1000, "a" * 2_000_000, "\ud800 half a pair", GOOD)]
    write(tmp_path / "a.jsonl.gz", odd, b"\n".join(bad) + b"\n")
    for preset in ("gopher", "c4", "fineweb", "dclm", "harsh"):
        out = tmp_path / preset
        flags = [
            f"--input={tmp_path}/a.jsonl.gz",
            f"--output={out}",
            f"--preset={preset}",
            *OFF,
            "--set=repair.on=false",
        ]
        assert main(["clean", *flags]) == 0
        manifest = json.loads((out / "manifests/a.jsonl.zst.json").read_text())
        assert (manifest["rows"], manifest["quarantined"], manifest["repaired"]) == (6, 4, 1)
        assert manifest["kept"] + sum(manifest["removed"].values()) == 6
    kept = [r["text"] for r in read(tmp_path / "gopher/a.jsonl.zst")]
    assert kept == [GOOD]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset=finweb"], "did you mean 'fineweb'"),
        (["--set=words.leest=3"], "did you mean 'least'"),
        (["--lid_model=absent.bin"], "there is no such file"),
        (["--alarm=2"], "must be a share"),
        (["--prest=c4"], "preset"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, flags, message):
    write(tmp_path / "a.jsonl.gz", rows()[:1])
    code = 0
    try:
        code = main(["clean", f"--input={tmp_path}/a.jsonl.gz", f"--output={tmp_path}/o", *flags])
    except SystemExit as stop:
        code = stop.code
    assert code in (1, 2)
    assert message in capsys.readouterr().err


def test_list_shows_every_rule_with_its_threshold(capsys):
    assert main(["clean", "--list", "--preset=gopher"]) == 0
    printed = capsys.readouterr().out
    assert "least 50, most 100000" in printed
    assert "safety_words" in printed  # not in this preset


def test_judging_is_pure_and_batches_do_not_matter():
    batch, _ = from_rows(rows(), range(40))
    preset = presets.load("fineweb", ["language.on=false"])
    whole = pipeline.judge(batch, preset)
    again = [pipeline.judge(batch.slice(i, 7), preset) for i in range(0, 40, 7)]
    assert whole.rule == [r for d in again for r in d.rule]
    assert whole.texts == [t for d in again for t in d.texts]
    assert isinstance(batch, pa.RecordBatch)
    assert batch.column("text").to_pylist() == [r["text"] for r in rows()]
    assert whole.keep.sum() == 30


def test_wrong_text_type_of_lists_and_content_types():
    made = [{"text": GOOD, "url": u, "content_type": c} for u, c in (
        ("http://bad.com/x", "text/html; charset=utf-8"),
        ("http://good.com/x", "application/pdf"),
        ("http://good.com/casino", "text/plain"),
        (None, None),
    )]  # fmt: skip
    batch, _ = from_rows(made, range(4))
    preset = presets.load("harsh", ["language.on=false", "repair.on=false", "domain_lines.on=false",
                                    'listed_address.also=["bad.com"]'])  # fmt: skip
    decision = pipeline.judge(batch, preset)
    assert decision.rule[:3] == ["listed_address", "content_type", "address_words"]
    assert decision.values["listed_address"].tolist() == [1, 0, 0, 0]


def test_the_language_becomes_a_column_and_the_library_agrees():
    pytest.importorskip("py3langid", reason="jaxpt[data] brings py3langid")
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    texts = [
        GOOD,
        "这是一个关于机器学习的中文句子，用来测试语言识别。",
        "Das ist ein deutscher Satz über das Wetter.",
        "",
        "\x00",
    ]
    alone = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    mine, theirs = Shipped()(texts), [alone.classify(t) for t in texts]
    assert [m[0] for m in mine] == [t[0] for t in theirs]
    assert [m[1] for m in mine] == pytest.approx([t[1] for t in theirs], abs=1e-4)
    assert [m[0] for m in mine[:3]] == ["en", "zh", "de"]
    batch, _ = from_rows([{"text": t} for t in texts[:3]], range(3))
    decision = pipeline.judge(batch, presets.load("fineweb"))
    assert decision.columns["language"] == ["en", "zh", "de"]
    assert decision.rule[1:] == ["language", "language"]
    assert len(sample("x" * 1000, 400)) == 400


def test_a_fasttext_model_identifies_languages(tmp_path):
    pytest.importorskip("fasttext", reason="jaxpt[data] brings fastText")
    from data_tools.classify.model import Classifier
    from data_tools.classify.recipes import Recipe

    pairs = [("the cat and the dog", "en"), ("der Hund und die Katze", "de")] * 30
    Classifier.train(pairs, Recipe(dim=8, epoch=20)).save(tmp_path / "lid.bin")
    found = identifier(str(tmp_path / "lid.bin"))(["the dog and the cat", "die Katze und der Hund", ""])
    assert [label for label, _ in found[:2]] == ["en", "de"]
