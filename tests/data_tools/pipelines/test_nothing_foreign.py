"""Nothing is removed or overwritten that does not carry our own note of having made it; one writer for an output."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.commands import classify, clean, dedup, extract, inspect, longdoc, pack, run, tokenize
from data_tools.io import ownership
from jaxpt.errors import JaxptError
from jaxpt.files.lock import Lock, beside, inside
from jaxpt.tokenizers import train_sentencepiece

pytest.importorskip("resiliparse", reason="resiliparse is not installed (jaxpt[data])")

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
def get_config(inputs):
    return {"input": inputs, "workers": 1, "steps": [
        {"command": "dedup", "options": {"engine": "numpy", "exact_only": True, "least_tokens": 0}},
        {"command": "decontaminate"},
    ]}
"""
MINE = "written by hand, nowhere else"


@pytest.fixture
def setting(tmp_path):
    (tmp_path / "raw").mkdir()
    for part in "ab":
        rows = [{"id": f"{part}{i}", "source": part, "text": f"document {part} {i}: " + "word " * i} for i in range(9)]
        (tmp_path / f"raw/{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "eval.jsonl").write_text(json.dumps({"id": "i", "text": "an item of an exam " * 5}) + "\n")
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path


def arguments(setting, workdir, *more):
    config = f"--config={setting}/config.py:{setting}/raw/*.jsonl"
    return [config, f"--workdir={workdir}", f"--config.eval={setting}/eval.jsonl", *more]


OTHER = "--config.steps[0].options.least_tokens=3"  # another key for both steps


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_folder_of_the_user_s_is_not_removed(setting):
    data = setting / "data"
    (data / "decontaminate").mkdir(parents=True)
    (data / "decontaminate/thesis.txt").write_text(MINE)
    before = tree(data)
    with pytest.raises(JaxptError, match=r"data/decontaminate was not made by step decontaminate of this pipeline"):
        run.main(arguments(setting, data))
    assert tree(data / "decontaminate") == {"thesis.txt": MINE.encode()}
    assert not (data / "dedup").exists()  # refused before the step in front of it ran
    assert before.items() <= tree(data).items()


@pytest.mark.parametrize(
    "name", ["../victim", "..", ".", "/abs", "a/b", ".x", "-x", "steps", "files", "pipeline", "a\\b"]
)
def test_a_step_s_name_is_one_path_component(setting, name):
    (setting / "victim").mkdir()
    (setting / "victim/file").write_text(MINE)
    with pytest.raises(JaxptError, match=r"config\.steps\[0\]\.name: the name"):
        run.main(arguments(setting, setting / "data", f"--config.steps[0].name={name}"))
    assert (setting / "victim/file").read_text() == MINE
    assert not (setting / "data").exists()


def note_without_times(folder):
    return {k: v for k, v in ownership.read_note(folder).items() if k not in ("began", "seconds")}


def test_what_the_pipeline_made_is_made_anew_under_another_key(setting):
    assert run.main(arguments(setting, setting / "data")) == 0
    first = note_without_times(setting / "data/dedup")
    (setting / "data/dedup/left").write_text("of the step before")
    moved = (setting / "data").rename(setting / "moved")
    assert run.main(arguments(setting, moved, OTHER)) == 0
    assert not (moved / "dedup/left").exists()
    assert note_without_times(moved / "dedup") == first
    assert first["step"] == "dedup"


def test_a_folder_put_in_the_place_of_ours_is_not_removed(setting):
    data = setting / "data"
    assert run.main(arguments(setting, data)) == 0
    for name, note in (("dedup", None), ("decontaminate", {"pipeline": "another", "step": "decontaminate"})):
        kept = shutil.move(data / name, setting / "aside")
        (data / name).mkdir()
        (data / name / "thesis.txt").write_text(MINE)
        if note:
            ownership.write_note(data / name, note)
        with pytest.raises(JaxptError, match=f"was not made by step {name}"):
            run.main(arguments(setting, data, OTHER))
        assert (data / name / "thesis.txt").read_text() == MINE
        shutil.rmtree(data / name)
        shutil.move(kept, data / name)
    assert run.main(arguments(setting, data, OTHER)) == 0


def test_a_symbolic_link_is_never_followed(setting):
    data, target = setting / "data", setting / "elsewhere"
    assert run.main(arguments(setting, data)) == 0
    shutil.move(data / "dedup", target)
    (data / "dedup").symlink_to(target)
    before = tree(target)
    with pytest.raises(JaxptError, match="was not made by step dedup"):
        run.main(arguments(setting, data, OTHER))
    assert tree(target) == before


def without_notes(data):
    """What af7ccdc left: no notes in the folders, none of them mentioned, no id of the pipeline."""
    for note in data.rglob(ownership.NOTE):
        note.unlink()
    (data / "steps/pipeline.json").unlink()
    for name in ("dedup", "decontaminate"):
        file = data / "steps" / f"{name}.json"
        facts = json.loads(file.read_text())
        del facts["noted"]
        file.write_text(json.dumps(facts))


def test_a_pipeline_of_an_earlier_version_goes_on(setting, capsys):
    data = setting / "data"
    assert run.main(arguments(setting, data)) == 0
    without_notes(data)
    capsys.readouterr()
    assert run.main(arguments(setting, data)) == 0
    assert "==" not in capsys.readouterr().out
    assert run.main(arguments(setting, data, OTHER)) == 0
    assert ownership.read_note(data / "dedup")["step"] == "dedup"
    without_notes(data)
    for name in ("dedup", "decontaminate"):  # killed before it was done
        file = data / "steps" / f"{name}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "done": False}))
    shutil.rmtree(data / "dedup/manifests")
    assert run.main(arguments(setting, data, OTHER)) == 0


COMMANDS = {
    "clean": (clean, ["--preset=fineweb"]),
    "dedup": (dedup, ["--engine=numpy", "--exact_only"]),
    "extract": (extract, []),
    "longdoc": (longdoc, ["--how=repositories", "--repo_field=source", "--path_field=id"]),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("file", ["NAME.json", "a.jsonl", "notes.txt", "removals/a.jsonl", "manifests/a.jsonl.json"])
def test_a_folder_of_the_user_s_is_no_output(setting, name, file):
    module, flags = COMMANDS[name]
    out = setting / "out"
    mine = out / file.replace("NAME", name)
    mine.parent.mkdir(parents=True)
    mine.write_text(MINE)
    with pytest.raises(JaxptError, match=f"{out} holds files that no jaxpt-data command made .*give a new folder"):
        module.main([f"--input={setting}/raw", f"--output={out}", *flags])
    assert tree(out) == {str(mine.relative_to(out)): MINE.encode()}


def test_a_command_goes_on_with_its_own_output_and_not_with_that_of_another(setting):
    out = setting / "out"
    for _ in range(2):
        assert extract.main([f"--input={setting}/raw", f"--output={out}"]) == 0
    (out / ownership.NOTE).unlink()  # of an earlier version
    assert extract.main([f"--input={setting}/raw", f"--output={out}"]) == 0
    before = tree(out)
    with pytest.raises(JaxptError, match="holds what jaxpt-data extract wrote; give another --output"):
        dedup.main([f"--input={setting}/raw", f"--output={out}", "--engine=numpy", "--exact_only"])
    assert tree(out) == before


def test_a_command_that_fails_leaves_no_marked_folder(setting):
    with pytest.raises(RuntimeError), ownership.writing(setting / "new", "clean"):
        raise RuntimeError
    assert not (setting / "new").exists()
    (setting / "new").mkdir()  # the user's own stays
    with ownership.writing(setting / "new", "clean"):
        pass
    assert list((setting / "new").iterdir()) == []


def test_one_writer_for_a_pipeline_an_output_and_a_pack(setting):
    data, out, packed_out = setting / "data", setting / "out", setting / "packed"
    model = train_sentencepiece([f"word{i} document" for i in range(400)], setting / "t.model", 290).files[0]
    packing = [f"--input={setting}/raw", f"--output={packed_out}", f"--tokenizer={model}", "--sequence_length=16"]
    with Lock(inside(data), data).acquire(), Lock(inside(out), out).acquire(), Lock(beside(packed_out), "p").acquire():
        for main, argv, flag in (
            (run.main, arguments(setting, data), "--workdir"),
            (extract.main, [f"--input={setting}/raw", f"--output={out}"], "--output"),
            (tokenize.main, [f"--input={setting}/raw", f"--output={out}", f"--tokenizer={model}"], "--output"),
            (pack.main, packing, "--output"),
        ):
            with pytest.raises(JaxptError, match=f"is being written by process {os.getpid()} on .*another {flag}"):
                main(argv)
        assert run.main(arguments(setting, data, "--dry_run")) == 0  # a reader
    assert not packed_out.exists()
    assert pack.main(packing) == 0
    assert [p.name for p in setting.iterdir() if p.name.startswith(".")] == []


def test_without_the_lock_two_writers_would_write_the_same_files(setting, monkeypatch):  # the test above can fail
    monkeypatch.setattr(Lock, "acquire", lambda self, take_over=None: self)
    with ownership.writing(setting / "out", "extract"):
        assert extract.main([f"--input={setting}/raw", f"--output={setting}/out"]) == 0
        assert (setting / "out/manifests/a.jsonl.json").exists()


def test_two_runs_of_one_pipeline(setting):
    data = setting / "data"
    command = [sys.executable, "-m", "data_tools", "run", *arguments(setting, data)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    both = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in "ab"
    ]
    outputs = [p.communicate(timeout=600)[0] for p in both]
    codes = [p.returncode for p in both]
    assert 0 in codes, outputs
    for code, text in zip(codes, outputs):
        assert code == 0 or "is being written by process" in text.splitlines()[-1], text
        assert "Traceback" not in text


def test_a_live_pack_s_partial_folder_is_left_alone(setting, monkeypatch):
    model = train_sentencepiece([f"word{i} document" for i in range(400)], setting / "t.model", 290).files[0]
    live = setting / f".packed.partial-{os.uname().nodename}-{os.getppid()}"
    live.mkdir()
    (live / "rows").write_text("of a process that lives")
    foreign = setting / ".packed.partial-mine"
    foreign.mkdir()
    flags = [f"--tokenizer={model}", "--sequence_length=16"]
    assert pack.main([f"--input={setting}/raw", f"--output={setting}/packed", *flags]) == 0
    assert (live / "rows").exists()
    assert foreign.exists()


def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    code = """
import multiprocessing, sys, time
from data_tools.shards.workers import end_with_parent
def work(file):
    end_with_parent()
    open(file, "w").write(str(__import__("os").getpid()))
    time.sleep(600)
if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work, args=(sys.argv[1],)).start()
    time.sleep(600)
"""
    (tmp_path / "main.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "main.py"), str(tmp_path / "pid")], env=env)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    while (
        Path(f"/proc/{worker}").exists()
        and Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_report_does_not_take_the_place_of_another_page(setting):
    assert run.main(arguments(setting, setting / "data")) == 0
    page = setting / "index.html"
    page.write_text("<h1>my own</h1>")
    with pytest.raises(JaxptError, match=r"index\.html exists and is not what this command writes there"):
        inspect.main([str(setting / "data"), f"--html={page}"])
    assert page.read_text() == "<h1>my own</h1>"
    for _ in range(2):
        assert inspect.main([str(setting / "data"), f"--html={setting}/report.html"]) == 0


def test_a_store_of_signatures_is_its_own_folder_with_one_writer(setting):
    store = setting / "store"
    argv = [f"--input={setting}/raw", f"--output={setting}/out", "--engine=numpy", "--exact_only", f"--store={store}"]
    (store / "shards").mkdir(parents=True)
    (store / "shards/0.json").write_text(MINE)
    with pytest.raises(JaxptError, match="holds files and is not a store"):
        dedup.main(argv)
    assert tree(store) == {"shards/0.json": MINE.encode()}
    (store / "shards/0.json").unlink()
    with Lock(inside(store), store).acquire(), pytest.raises(JaxptError, match="another --store"):
        dedup.main(argv)
    assert dedup.main(argv) == 0


def test_a_model_is_not_written_over_another_file(setting):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(8)]
    (setting / "labelled.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for name, said in (("m.bin", "has no"), ("m.bin.json", "exists and is not"), ("m.bin.heldout.html", "exists and")):
        (setting / name).write_text(MINE)
        with pytest.raises(JaxptError, match=said):
            classify.main([f"--train={setting}/labelled.jsonl", f"--model={setting}/m.bin"])
        assert (setting / name).read_text() == MINE
        (setting / name).unlink()
