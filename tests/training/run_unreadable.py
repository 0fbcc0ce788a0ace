"""`run_made` as a command would run it: errors are one line; on process `fails_on` no checkpoint can be read."""

import json
import sys

from jaxpt.errors import JaxptError
from tests.training import run_made


def main():
    """One process of two where `coordinator` is given."""
    import jax
    import orbax.checkpoint as ocp

    settings = json.loads(sys.argv[2])
    fails_on = settings.pop("fails_on", None)
    if "coordinator" in settings:
        jax.distributed.initialize(settings.pop("coordinator"), 2, settings.pop("process"))

    def fail(*args, **kinds):
        raise OSError(5, "Input/output error")

    if jax.process_index() == fails_on:
        ocp.PyTreeCheckpointHandler.restore = fail
    try:
        return run_made.start(sys.argv[1], **settings)
    except JaxptError as error:
        print(f"error: {error}", flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
