"""Reading what a run wrote needs nothing of what trained it."""

import ast
import subprocess
import sys
from pathlib import Path

import jaxpt.checkpoints
from tests.training import run_made

LOAD = """
import sys
import jaxpt

model = jaxpt.load(sys.argv[1])
assert model.config.vocab_size == 48
for room in ("training", "optim", "objectives", "evaluation"):
    loaded = [name for name in sys.modules if name.split(".")[:2] == ["jaxpt", room]]
    assert not loaded, loaded
"""


def test_loading_a_run_imports_no_training(tmp_path):
    stages = [{**run_made.STAGE, "duration": "2 steps"}]
    assert run_made.start(tmp_path / "run", stages=stages, evaluate=None, log=lambda line: None) == 0
    done = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    train = LOAD.replace("import jaxpt\n", "import jaxpt\nimport jaxpt.training.loop\n")
    done = subprocess.run([sys.executable, "-c", train, str(tmp_path / "run")], capture_output=True, text=True)
    assert "jaxpt.training.loop" in done.stderr  # the proof above can fail


def test_no_file_of_checkpoints_names_training():
    for path in Path(jaxpt.checkpoints.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(m.startswith("jaxpt.training") for m in modules), path
