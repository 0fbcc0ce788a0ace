"""Every command that README, docs and `--help` show works as it is written; a new page joins by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import documented
from tests.docs.documented import PROGRAMS, ROOT

PAGES = documented.pages()
PARTS = 2  # CI has two cores
HELPS = [(program, command) for program in PROGRAMS for command in documented.names(program)]


def to_run() -> dict[str, list[str]]:
    """The commands of each page and each help text that are marked to be run."""
    out = {p.relative_to(ROOT).as_posix(): documented.of_page(p)[0] for p in PAGES}
    out |= {f"{program} {command} --help": documented.of_help(program, command) for program, command in HELPS}
    return {page: [c.text for c in found if not c.reason] for page, found in out.items() if found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_of_a_page_is_in_a_fence_that_says_whether_it_is_run(page):
    _, strays = documented.of_page(page)
    assert not strays, "put them into ```bash run, or ```bash not run: REASON"


@pytest.mark.parametrize(
    ("text", "strays", "found"),
    [
        ("    jaxpt train --config=a.py --workdir=b\n", 1, 0),
        ("```\njaxpt-data pack --input=a\n```\n", 1, 0),
        ("```bash\nmake test\n```\n", 1, 0),
        ("    launch/tpu_vm.sh create\n", 1, 0),
        ("```bash run\njaxpt inspect \\\n  a  # what it is\n\njaxpt inspect b\n```\n", 0, 2),
        ("```bash not run: needs a GPU\njaxpt inspect a\n```\n", 0, 1),
        ("jaxpt train starts a run\n\n    model = jaxpt.load('a')\n    jaxpt is left out\n", 0, 0),
    ],
)
def test_a_command_in_no_marked_fence_would_be_noticed(text, strays, found):
    got = documented.of_page(Path("page.md"), text)
    assert (len(got[1]), len(got[0])) == (strays, found)


def test_every_fence_that_is_not_run_says_why():
    reasons = {c.reason for p in PAGES for c in documented.of_page(p)[0]}
    assert all(len(reason) > 10 for reason in reasons - {""})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_within_a_sentence_exists_and_has_its_flags(page):
    for line, program, command, flags in documented.inline(page):
        assert command in documented.names(program), f"{page.name}:{line}"
        known = documented.help_text(program, command)
        assert all(flag in known for flag in flags), f"{page.name}:{line}: {flags}"


@pytest.mark.parametrize(("program", "command"), HELPS, ids=[" ".join(h) for h in HELPS])
def test_every_help_has_an_example(program, command):
    assert documented.of_help(program, command)


def in_parts(pages: dict[str, list[str]]) -> list[dict[str, list[str]]]:
    """The pages in PARTS parts of about as many commands each, which may run side by side."""
    parts: list[dict[str, list[str]]] = [{} for _ in range(PARTS)]
    for page, commands in sorted(pages.items(), key=lambda item: -len(item[1])):
        min(parts, key=lambda part: sum(map(len, part.values())))[page] = commands
    return parts


def test_the_parts_hold_every_page_once():
    assert sorted(page for part in in_parts(to_run()) for page in part) == sorted(to_run())


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_command_works_as_it_is_written(part, tmp_path):
    """In one process of its own with one device."""
    pytest.importorskip("daft")  # the data extra
    pages = in_parts(to_run())[part]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "tests.docs.run_documented", str(tmp_path)]
    done = subprocess.run(
        command, input=json.dumps(pages), capture_output=True, text=True, env=env, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads(done.stdout.splitlines()[-1])
    commands = [(page, *one) for page, ran in results.items() for one in ran]
    assert [(page, command) for page, command, *_ in commands] == [(p, c) for p, cs in pages.items() for c in cs]
    failed = [f"{page}: {command}\n{output[-800:]}" for page, command, code, output in commands if code]
    assert not failed, "\n\n".join(failed)
    assert not [page for page, _, _, output in commands if "Traceback" in output]
