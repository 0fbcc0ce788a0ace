"""Every export of the suite is opened by transformers, whatever the test that made it looks at."""

import contextlib
import importlib.util
import json
import os
from pathlib import Path

OPENED = []  # config.json of each export that was opened in this process


def open_by_transformers(folder, **options):
    """Loads an export with transformers; every tensor must be there, wanted, and of the shape that its config gives."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto", **options)
    wrong = {name: keys for name, keys in info.items() if keys}
    assert not wrong, f"transformers opens {folder} with {wrong}"
    return model


def watch(monkeypatch):
    """From here on each finished export of one of our families is opened; nothing where transformers is absent."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        return
    from jaxpt.interop import FAMILIES, exporting

    written = exporting.partial_directory

    @contextlib.contextmanager
    def watched(target):
        with written(target) as partial:
            yield partial
        config = json.loads((Path(target) / "config.json").read_text())
        if config["model_type"] in FAMILIES:  # a family of a test's own is none of theirs
            open_by_transformers(target)
            OPENED.append(config)

    monkeypatch.setattr(exporting, "partial_directory", watched)
