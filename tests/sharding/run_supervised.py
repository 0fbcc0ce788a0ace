"""A supervised process whose work is what the command line says, in JSON."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from jaxpt.errors import JaxptError
from jaxpt.sharding import join
from jaxpt.sharding.supervisor import supervised
from jaxpt.training.interrupt import Interrupt
from jaxpt.training.starting_point import same_everywhere


def stepping(wanted):
    """Counts steps until all processes agree to stop, or to the end; returns the exit code."""
    with Interrupt(Path("nowhere")) as interrupt:
        for step in range(wanted["steps"]):
            time.sleep(0.01)
            if interrupt.is_agreed(step):
                print("agreed at", step)
                return 75
    return 0


def main():
    """Runs the work in the child; returns the supervisor's exit code."""
    wanted = json.loads(sys.argv[1])

    def work(watch):
        if "coordinator" in wanted:
            join(wanted["coordinator"], 2, wanted["process"], silence=300)
            watch.begin()
        if wanted.get("handler"):
            signal.signal(signal.SIGTERM, lambda number, frame: None)
        print("child", os.getpid(), os.isatty(1), os.isatty(2), signal.getsignal(signal.SIGINT).name, flush=True)
        if "newest" in wanted:
            print("start", Path(same_everywhere(wanted["newest"])).name)
        if "steps" in wanted:
            return stepping(wanted)
        if "mistake" in wanted:
            raise JaxptError(wanted["mistake"])
        if "signal" in wanted:
            os.kill(os.getpid(), wanted["signal"])
        if "code" not in wanted:
            time.sleep(600)
        time.sleep(wanted.get("seconds", 0))
        return wanted["code"]

    return supervised(work, wanted.get("limit", 60.0), "test", lambda: "go on")


if __name__ == "__main__":
    sys.exit(main())
