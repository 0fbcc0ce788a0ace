"""Mistakes on the command line of `jaxpt eval` that are found before anything is loaded."""

import pytest

from jaxpt import cli

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

GIVEN = ("--model=m", "--tasks=t.yaml")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--model is missing (or --list, --compare=A,B, --follow=RUN)"),
        (("--tasks=t.yaml", "--contaminated=c"), "--model is missing"),
        ((*GIVEN, "--once"), "--once goes with --follow=RUN alone"),
        ((*GIVEN, "--keep_best=t/acc"), "--keep_best goes with --follow=RUN alone"),
        ((*GIVEN, "--backlog=3"), "--backlog goes with --follow=RUN alone"),
        ((*GIVEN, "--fewshot_as_multiturn"), "add --chat_template"),
        (("--compare=a,b", "--model=m"), "--model does not go with --compare"),
        (("--compare=a,b", "--limit=3"), "--limit does not go with --compare"),
        (("--compare=a"), "--compare=a must be two folders of results"),
        (("--list", "--data=d"), "--data does not go with --list"),
        (("--follow=r", "--run_model_code"), "--run_model_code does not go with --follow"),
        (("--follow=r", "--limit=3"), "--limit goes with --tasks; without, an entry of the run's config says all"),
        (("--follow=r", "--contaminated=c"), "--contaminated goes with --tasks"),
        (("--follow=r", "--tasks=t.yaml", "--limit=0"), "--limit=0 must be at least 1"),
        (("--follow=r", "--tasks=t.yaml"), "--follow=r is not a run directory"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_way_out(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["eval", *([flags] if isinstance(flags, str) else flags)]) != 0
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


def test_a_task_file_of_another_ending_is_near(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.yaml").write_text("")
    assert cli.main(["eval", "--model=m", "--tasks=sums.yml"]) == 1
    assert "--tasks=sums.yml: there is no such task file (did you mean 'sums.yaml'?)" in capsys.readouterr().err
