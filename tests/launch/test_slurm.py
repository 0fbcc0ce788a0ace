"""The SLURM script starts a process per task that find each other, and queues a stopped run again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxpt.checkpoints.checkpoints import finished_steps
from tests.training import run_made

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "slurm.sh"

# what SLURM does: every task gets the same command and its number, and the highest exit code is srun's
SRUN = """#!/usr/bin/env bash
while [ "${1#--}" != "$1" ]; do shift; done
pids=() code=0
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_NODELIST=localhost "$@" & pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit "$code"
"""


@pytest.fixture
def cluster(tmp_path):
    """A folder of programs that stand for SLURM's."""
    bin = tmp_path / "bin"
    bin.mkdir()
    programs = {"srun": SRUN, "scontrol": f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\n'}
    programs["stopped"] = '#!/bin/sh\necho "$@"\nexit 75\n'
    programs["broken"] = "#!/bin/sh\nexit 1\n"
    for name, text in programs.items():
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    return bin


def submit(cluster, *arguments, **env):
    env = {"PATH": f"{cluster}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "7", **env}
    env = {**os.environ, "SLURM_NTASKS": "1", "JAX_COMPILATION_CACHE_DIR": str(cluster.parent / "cache"), **env}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], env=env, cwd=cluster.parent, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_two_tasks_train_one_run(cluster, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom jaxpt.sharding import join\nfrom tests.training import run_made\n"
        "arguments = dict(a.removeprefix('--').split('=', 1) for a in sys.argv[2:])\n"
        "join(arguments['coordinator'])\n"
        "sys.exit(run_made.start(arguments['workdir'], devices=2, stages=run_made.CONFIG['stages'][1:]))\n"
    )
    job = str(os.getpid())  # decides the port of process 0
    done = submit(
        cluster,
        f"--workdir={tmp_path / 'run'}",
        JAXPT=f"{sys.executable} {program}",
        JAX_NUM_CPU_DEVICES="1",
        SLURM_NTASKS="2",
        SLURM_JOB_ID=job,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert finished_steps(tmp_path / "run")[-1] == 10
    assert '"devices": 2' in (tmp_path / "run" / "events.jsonl").read_text()
    assert run_made.CONFIG["stages"][1]["duration"] == "10 steps"
    assert not (tmp_path / "scontrol.log").exists()


def test_a_run_that_was_stopped_is_queued_again_and_a_broken_one_is_not(cluster, tmp_path):
    done = submit(cluster, "--config=c.py", "--workdir=a b", JAXPT="stopped")
    assert done.returncode == 75
    assert "train --coordinator=auto --config=c.py --workdir=a b" in done.stdout
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
    assert submit(cluster, "--config=c.py", JAXPT="stopped", REQUEUE="0").returncode == 75
    assert submit(cluster, "--config=c.py", JAXPT="broken").returncode == 1
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"


@pytest.mark.parametrize(
    ("env", "message"),
    [({"SLURM_JOB_ID": ""}, "submit it: sbatch launch/slurm.sh"), ({"JAXPT": "nowhere/jaxpt"}, "no nowhere/jaxpt")],
)
def test_mistakes_are_one_line_and_exit_2(cluster, env, message):
    done = submit(cluster, "--config=c.py", **env)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
