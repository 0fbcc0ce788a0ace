"""Notebooks run from the first cell to the last, on a tiny parent instead of the quickstart's."""

import json
from pathlib import Path

import pytest

from jaxpt import cli
from jaxpt.data.build import build
from jaxpt.tokenizers import train_sentencepiece
from tests.evaluation import sums

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCES = ("code", "prose", "arithmetic")


def cells(notebook, tag):
    found = [c for c in json.loads(notebook.read_text())["cells"] if tag in c["metadata"].get("tags", ())]
    return ["".join(cell["source"]) for cell in found]


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """What the quickstart leaves, made in seconds."""
    work = tmp_path_factory.mktemp("quickstart")
    data = work / "data"
    (data / "text").mkdir(parents=True)
    texts = sums.texts(0, 150)
    tokenizer = train_sentencepiece(texts, data / "tokenizer" / "tokenizer.model", 300)
    for name in SOURCES:
        lines = [json.dumps({"text": f"{name}: {t}"}) + "\n" for t in texts]
        (data / "text" / f"{name}.held_out.jsonl").write_text("".join(lines[::50]))
        (data / "text" / f"{name}.train.jsonl").write_text("".join(lines))
        build(str(data / "text" / f"{name}.train.jsonl"), data / "packed" / name, tokenizer, 64)
    args = [f"--config={ROOT / 'configs' / 'quickstart.py'}:{data}", f"--workdir={work / 'run'}"]
    args += ["--config.model.vocab_size=300", "--config.model.layers=2", "--config.stages[0].sequence_length=64"]
    args += ["--config.stages[0].duration=20 steps", "--config.stages[0].batch_size=8"]
    assert cli.main(["train", *args]) == 0
    return work


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end(notebook, parent, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    for source in cells(notebook, "parameters"):
        exec(source, names)
    names |= {"PARENT": parent, "CHILDREN": tmp_path / "children", "STEPS": 4, "SEQUENCE_LENGTH": 64}
    for source in cells(notebook, "run"):
        exec(source, names)
    assert len(names["held_out"]) >= 2
    assert names["figure"].axes


def test_notebooks_hold_no_output_and_every_code_cell_has_a_known_tag():
    assert NOTEBOOKS
    for notebook in NOTEBOOKS:
        for cell in json.loads(notebook.read_text())["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [], notebook.name
                assert cell["execution_count"] is None, notebook.name
                assert cell["metadata"]["tags"] in (["install"], ["parameters"], ["run"]), notebook.name
