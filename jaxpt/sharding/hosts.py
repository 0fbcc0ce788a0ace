"""Several hosts as one machine: a process joins the others before it looks for devices; process 0 decides for all."""

import math
from collections.abc import Callable

import jax
import numpy as np

from jaxpt.errors import JaxptError

LONGEST = 2000  # bytes of an error that is sent to the other processes


def check_join(coordinator: str | None, processes: int | None = None, process_id: int | None = None) -> None:
    """Checks the arguments of `join`.

    Raises:
        JaxptError: arguments that do not go together.
    """
    if coordinator is None:
        if processes is not None or process_id is not None:
            raise JaxptError("--processes and --process_id need --coordinator=HOST:PORT, the address of process 0")
        return
    auto = coordinator == "auto"
    if auto and (processes is not None or process_id is not None):
        raise JaxptError(
            "--coordinator=auto asks the cluster for the processes; leave out --processes and --process_id"
        )
    if not auto and not coordinator.rpartition(":")[2].isdigit():
        raise JaxptError(f"--coordinator={coordinator} is not of the form HOST:PORT (or auto)")
    if not auto and (processes is None or process_id is None or not 0 <= process_id < processes):
        raise JaxptError(
            f"--coordinator={coordinator} needs --processes=N and --process_id=0…N-1, got {processes} and {process_id}"
        )


def join(
    coordinator: str | None, processes: int | None = None, process_id: int | None = None, silence: float = 100.0
) -> None:
    """Joins the processes of one run; does nothing without a coordinator.

    Args:
        coordinator: HOST:PORT of process 0; or "auto": this and the rest is asked of the cluster (a Cloud TPU pod,
            SLURM, Open MPI, Kubernetes).
        processes: how many there are.
        process_id: which one this is, from 0.
        silence: seconds without a heartbeat after which JAX ends all processes.

    Raises:
        JaxptError: as `check_join`, no cluster that "auto" knows, or a coordinator out of reach.
    """
    check_join(coordinator, processes, process_id)
    if coordinator is None:
        return
    seconds = math.ceil(silence)
    try:
        if coordinator == "auto":
            jax.distributed.initialize(heartbeat_timeout_seconds=seconds)
        else:
            jax.distributed.initialize(coordinator, processes, process_id, heartbeat_timeout_seconds=seconds)
    except ValueError as error:  # no cluster environment answered
        raise JaxptError(
            "--coordinator=auto found neither a Cloud TPU pod, SLURM, Open MPI nor Kubernetes; give HOST:PORT of "
            "process 0 with --processes and --process_id, or leave it out on one host"
        ) from error
    except RuntimeError as error:
        raise JaxptError(f"--coordinator={coordinator}: {str(error)[:200]}; is process 0 running?") from error


def on_first_process(action: Callable[[], None]) -> None:
    """Runs `action` on process 0 alone; an error there is raised by every process, so that none waits for it.

    All processes must call it at the same point.

    Raises:
        JaxptError: what `action` raised on process 0.
    """
    failure: Exception | None = None
    if jax.process_index() == 0:
        try:
            action()
        except Exception as error:
            failure = error
    text = text_of_first("" if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    if text:
        raise JaxptError(text)


def text_of_first(text: str) -> str:
    """Returns the text of process 0, cut to `LONGEST` bytes; all processes must call it at the same point."""
    if jax.process_count() == 1:
        return text
    from jax.experimental import multihost_utils

    sent, line = text.encode()[:LONGEST], np.zeros(LONGEST, np.uint8)
    line[: len(sent)] = np.frombuffer(sent, np.uint8)
    everywhere = multihost_utils.broadcast_one_to_all(line).astype(np.uint8).tobytes()
    return everywhere.rstrip(b"\0").decode(errors="replace")


def of_first(values: np.ndarray) -> np.ndarray:
    """Returns the array of process 0, of equal shape and dtype everywhere; all processes must call it at the same
    point."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(values)).astype(values.dtype)
