"""The TPU VM script prints the commands it would run, and refuses mistakes in one line."""

import os
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


def test_results_are_fetched_from_the_first_worker_into_the_folder_of_the_same_name(tmp_path):
    """`gcloud` is a stand-in here that copies from a folder, as scp does from a machine."""
    (tmp_path / "vm/jaxpt/runs/a/checkpoints").mkdir(parents=True)
    (tmp_path / "vm/jaxpt/runs/a/metrics.jsonl").write_text("{}\n")
    (tmp_path / "bin").mkdir()
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.write_text('#!/usr/bin/env bash\necho "$@" >>log\ncp -r "vm/${6#*:}" "$7"\n')
    gcloud.chmod(0o755)
    path = f"{gcloud.parent}:{os.environ['PATH']}"
    arguments = ("fetch", "--name", "a", "--zone", "z", "--workdir", "runs/a")

    def fetch(*more):
        command = ["bash", str(SCRIPT), *arguments, *more]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PATH": path}
        )

    assert fetch().returncode == 0
    assert (tmp_path / "runs/a/metrics.jsonl").read_text() == "{}\n"
    assert (tmp_path / "log").read_text() == (
        "compute tpus tpu-vm scp --recurse a:jaxpt/runs/a runs/a --zone=z --worker=0\n"
    )
    assert "runs/a is here already" in fetch().stderr
    assert fetch("--to=runs/b").returncode == 0
    assert (tmp_path / "runs/b/checkpoints").is_dir()


def test_a_flag_may_be_followed_by_its_value():
    joined = launch("create", "--name=a", "--zone=z", "--type=v6e-8", "--dry-run")
    apart = launch("create", "--name", "a", "--zone", "z", "--type", "v6e-8", "--dry-run")
    assert apart.returncode == 0
    assert apart.stdout == joined.stdout


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
        (("logs", "--name"), "--name needs a value"),
        (("fetch", "--name=a", "--zone=z"), "--workdir is missing"),
        (("fetch", "--name=a", "--zone=z", "--workdir=../b/runs/a"), "--to is missing"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments, message):
    done = launch(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
