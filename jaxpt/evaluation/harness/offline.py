"""Nothing is downloaded unless the user says so."""

import os

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def stay_offline() -> None:
    """Keeps lm_eval's own tasks to what is already on this machine; called before anything of it is imported."""
    for name in OFFLINE:
        os.environ[name] = "1"
