"""`jaxpt train` as a process of its own, one of several where `coordinator` is given; may wait between two steps.

CONFIG, WORKDIR and settings as JSON: `hold_at` (a step before which it waits for WORKDIR.release), `lock` (False: the
lock is off), `beat` and `stale` (seconds), `coordinator`, `processes`, `process`, `flags`.
"""

import json
import sys
from pathlib import Path

from jaxpt import cli
from jaxpt.files import lock
from jaxpt.training import feed
from tests.training.feed import hold


def hold_before(step, release):
    """Lets a run wait before the batch of `step`, until the file `release` is there."""
    make = feed.make_feed

    def made(*args, **kinds):
        packed = make(*args, **kinds)
        iterate = packed.iterate

        def held(*args):
            for at, batch in iterate(*args):
                hold(at, step, release)
                yield at, batch

        packed.iterate = held
        return packed

    feed.make_feed = made


def main():
    """Runs the command."""
    workdir, settings = Path(sys.argv[2]), json.loads(sys.argv[3])
    if "hold_at" in settings:
        hold_before(settings["hold_at"], workdir.with_suffix(".release"))
    if not settings.get("lock", True):
        lock.Lock.acquire = lambda self, take_over=None: self
    lock.BEAT, lock.STALE = settings.get("beat", lock.BEAT), settings.get("stale", lock.STALE)
    flags = list(settings.get("flags", []))
    if "coordinator" in settings:
        flags += [f"--coordinator={settings['coordinator']}", f"--processes={settings['processes']}"]
        flags += [f"--process_id={settings['process']}"]
    return cli.main(["train", f"--config={sys.argv[1]}", f"--workdir={workdir}", *flags])


if __name__ == "__main__":
    sys.exit(main())
