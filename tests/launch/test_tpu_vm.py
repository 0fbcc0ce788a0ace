"""The TPU VM script prints the commands it would run, and refuses mistakes in one line."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "tpu_vm.sh"


def launch(*arguments):
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_train_runs_the_given_arguments_on_every_worker():
    done = launch("train", "--name=a", "--zone=z", "--dry-run", "--", "--config=c.py", "--workdir=../b/a b")
    assert done.returncode == 0
    assert "tpu-vm ssh a --zone=z --worker=all" in done.stdout
    assert "train\\ --coordinator=auto" in done.stdout
    assert "../b/a" in done.stdout


def test_create_picks_the_runtime_of_the_generation():
    done = launch("create", "--name=a", "--zone=z", "--type=v6e-8", "--spot", "--dry-run")
    assert "--accelerator-type=v6e-8 --version=v2-alpha-tpuv6e --spot" in done.stdout


def test_a_bucket_is_mounted_on_every_worker():
    done = launch("mount", "--name=a", "--zone=z", "--bucket=b", "--dry-run")
    assert done.returncode == 0
    assert "--worker=all" in done.stdout
    assert "gcsfuse\\ --implicit-dirs\\ b\\ b" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("creat", "--name=a"), "no command 'creat'"),
        (("create", "--zone=z"), "--name is missing"),
        (("create", "--name=a", "--zone=z", "--type=v9-8"), "no known runtime for --type=v9-8"),
        (("mount", "--name=a", "--zone=z"), "--bucket is missing"),
        (("mount", "--name=a", "--zone=z", "--bucket=gs://b"), "leave out gs://"),
        (("train", "--name=a", "--zone=z"), "give the arguments of jaxpt train after --"),
        (("logs", "--name=a", "--zon=z"), "unknown option '--zon=z'"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments, message):
    done = launch(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
