"""Eight simulated devices for every test, quick compilation, set before JAX starts; where the shared test data lies.

Most of the time of the tests is XLA's. They compile with few optimisations and with its older emitter of loops, which
takes a fifth of the time of the fusion emitters, and keep what they have compiled, programs and Python's, for other
tests, other processes and the next run. What users run is tested with `JAX_DISABLE_MOST_OPTIMIZATIONS=0`, as CI does on
the newest JAX for its selection. TPU programs are always optimised.
"""

import gc
import os
import re
import signal
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.pop("COLUMNS", None)  # tables are as wide as they are, whatever the terminal
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1" and version("jaxlib").startswith("0.10."):
    # a later XLA has no other emitter, and ends at a flag that it does not know
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):  # each of the many processes would compile every file again
    sys.dont_write_bytecode = False
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

from tests.interop.opened import watch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a script put into the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests, and what they start, are interrupted

SHARED = Path(os.environ.get("JAXPT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


EXTRAS = {  # which extra has a module that a test may lack
    **dict.fromkeys(("torch", "transformers", "accelerate"), "parity"),
    **{"ray": "ray", "tensorflow_datasets": "tfds", "kenlm": "kenlm", "libtpu": "tpu", "lm_eval": "eval"},
    **dict.fromkeys(("starlette", "uvicorn", "prometheus_client"), "serve"),
    **dict.fromkeys(("openai", "tenacity"), "dev"),
    **dict.fromkeys(("daft", "fasttext", "ftfy", "numba", "py3langid", "rjieba", "resiliparse", "datasketch"), "data"),
}


def pytest_collection_finish():
    """What has been imported and collected stays: no later collection of garbage goes through it."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """Says in one line for each reason how many tests were skipped, and which extra they need where that is why."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()))
    for reason, count in sorted(reasons.items()):
        missing = re.search(r"[Nn]o module named '(\w+)|could not import '(\w+)", reason)
        extra = EXTRAS.get(missing[1] or missing[2], "") if missing else ""
        way_out = f"; .venv/bin/pip install -e '.[{extra}]'" if extra else ""
        terminalreporter.line(f"skipped {count}: {' '.join(reason.removeprefix('Skipped: ').split())}{way_out}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real text and the real tiny model; tests that need it are skipped where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED} is absent: real test data is needed (set JAXPT_SHARED)")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def exports_are_opened_by_transformers():
    """A Hugging Face directory that transformers cannot open fails the test that exported it."""
    with pytest.MonkeyPatch.context() as patch:
        watch(patch)
        yield


@pytest.fixture(scope="module", autouse=True)
def release_compiled_programs():
    """Drop compiled programs after each file of tests.

    Each XLA CPU program holds several memory maps; a process is allowed 65,530 of them (vm.max_map_count), and
    the whole suite in one process compiles enough to exhaust them, which ends as a segmentation fault in XLA.
    """
    yield
    jax.clear_caches()
    gc.collect()
