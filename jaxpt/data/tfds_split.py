"""A split of a prepared TFDS dataset as the origin of documents; TensorFlow is not needed."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from jaxpt.data.caps import CAPS, Caps
from jaxpt.data.fingerprints import content_fingerprint
from jaxpt.data.text_files import Aside, LeftOut, refuse
from jaxpt.errors import JaxptError, nearest

PREFIX = "tfds:"
OPTIONS = ("split", "data_dir")
FORM = "tfds:NAME/config:version?split=train&data_dir=DIR"
BLOCK = 256  # examples read together


class TfdsSplit:
    """Examples in the order in which they are stored.

    Only files are read: a dataset that was not prepared is an error, never a download, and no dataset's code is run.
    """

    unit = "doc"

    def __init__(self, path: str):
        """Finds the dataset's files.

        Args:
            path: `tfds:NAME/config:version?split=train&data_dir=DIR` (config, version and data_dir as TFDS chooses them
                where left out), or `tfds:/FOLDER/NAME/VERSION?split=train` for a dataset's own folder.

        Raises:
            JaxptError: another form, TFDS is not installed, the dataset is not prepared, it has no such split or is
                not stored as ArrayRecord.
        """
        self.path = path
        name, _, query = path.removeprefix(PREFIX).partition("?")
        options = dict(parse_qsl(query))
        for key in options:
            if key not in OPTIONS:
                raise JaxptError(f"{path}: {key} is not an option{nearest(key, OPTIONS)}; write {FORM}")
        if "split" not in options:
            raise JaxptError(f"{path} names no split; write {FORM}")
        self._builder = _open(path, name, options.get("data_dir"))
        self.split = options["split"]
        try:
            split = self._builder.info.splits[self.split]
        except (KeyError, ValueError) as e:
            have = ", ".join(self._builder.info.splits)
            raise JaxptError(f"{path}: there is no split {self.split}; it has {have or 'none'}") from e
        self._parts = [(str(p.filename), int(p.skip), int(p.take)) for p in split.file_instructions]
        if not all(".array_record" in Path(name).name for name, _, _ in self._parts):
            raise JaxptError(f"{path} is not stored as ArrayRecord; prepare it with file_format='array_record'")
        self.size, self.position = int(split.num_examples), 0

    def documents(
        self, fields: tuple[str, ...], caps: Caps = CAPS, aside: Aside = refuse
    ) -> Iterator[dict[str, object]]:
        """Yields every example as a dict of `fields` (and `tools` where there is one), bytes as text."""
        known = list(self._builder.info.features)
        for field in fields:
            if field not in known:
                raise JaxptError(f"{self.path} lacks the feature {field!r}; it has {', '.join(known)}")
        wanted = [field for field in known if field in (*fields, "tools")]
        data = self._builder.as_data_source(split=self.split)
        self.position = 0
        for first in range(0, len(data), BLOCK):
            for example in data.__getitems__(range(first, min(first + BLOCK, len(data)))):
                self.position += 1
                document = {key: plain(example[key]) for key in wanted}
                long = next(
                    (f for f in fields if isinstance(t := document[f], str) and len(t) > caps.largest_record), None
                )
                if long is None:
                    yield document
                else:
                    why = f"a value longer than {caps.largest_record:,} characters"
                    aside(LeftOut(f"{self.path}:{self.position}", why, str(document[long])[:200]))

    def fingerprint(self, memo: Path) -> str:
        """As `Origin.fingerprint`: the files' content, the features and which examples of each file are taken."""
        features = str(Path(str(self._builder.data_dir)) / "features.json")
        content = content_fingerprint([features, *(name for name, _, _ in self._parts)], memo)
        taken = [part[1:] for part in self._parts]
        return hashlib.sha256(json.dumps([content, taken]).encode()).hexdigest()


def _open(path: str, name: str, data_dir: str | None) -> Any:
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder
    except ImportError as e:
        raise JaxptError(f"{path} needs TFDS ({e}); install jaxpt[tfds]") from e
    try:
        if name.startswith("/"):
            if not (Path(name) / "dataset_info.json").is_file():
                raise FileNotFoundError
            return tfds.builder_from_directory(name)
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, FileNotFoundError, AssertionError) as e:
        where = data_dir or "TFDS's own folder"
        raise JaxptError(f"{path}: no prepared dataset {name} in {where}; prepare it with TFDS first") from e


def plain(value: object) -> Any:
    """Returns an example's value with text for bytes and Python's types for numpy's.

    Raises:
        JaxptError: bytes that are not UTF-8.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as e:
            raise JaxptError(f"an example holds bytes that are not UTF-8 ({e})") from e
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        return [plain(v) for v in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
