"""Worker processes: they end with the process that started them, so that a killed one leaves no second writer."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Lets this worker end as soon as the process that started it has ended, however that came."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True, name="end with parent").start()
