"""A run directory: what it says about the run besides checkpoints and metrics, and whether a config still fits it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpt import tokenizers
from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.checkpoints.run_files import WAY_OUT, stored_model
from jaxpt.config.schema import build, plain
from jaxpt.errors import JaxptError
from jaxpt.files import lock
from jaxpt.files.digests import MODEL_FORMAT, NAME, Digests, open_digests, read_bytes, read_json, write_files
from jaxpt.models.config import ModelConfig
from jaxpt.tokenizers import Tokenizer
from jaxpt.tokenizers.fingerprints import accepts
from jaxpt.training.config import RunConfig

# Changing these would make the steps taken and those to come two different runs.
FIXED = ("seed", "model", "init_from", "tokenizer", "branch_from", "branch")


def prepare(
    workdir: Path, config: RunConfig, model: ModelConfig, tokenizer: Tokenizer | None, lineage: list[dict[str, Any]]
) -> list[str]:
    """Makes the directory, or checks that an existing one is whole and belongs to this config; writes its small files.

    A damaged file is written again only where that gives it the very content that it had.

    Args:
        workdir: the run directory.
        config: the run's config, stored as config.json.
        model: stored as model.json.
        tokenizer: stored in tokenizer/, if there is one.
        lineage: where the run's first parameters come from; stored as lineage.json until there is a checkpoint.

    Returns:
        One line for each key that was changed since the run began, and for each damaged file that was written again.

    Raises:
        JaxptError: the directory holds a run with another model, tokenizer, seed or start, or a damaged file.
    """
    fingerprint = None if tokenizer is None else tokenizer.fingerprint
    new = {} if tokenizer is None else {f"tokenizer/{name}": content for name, content in tokenizer.contents().items()}
    new["lineage.json"] = _json(lineage)
    new["model.json"] = _json({"format": MODEL_FORMAT, "config": model.to_dict(), "tokenizer_fingerprint": fingerprint})
    new["config.json"] = _json(plain(config))  # the last: a directory that has it was prepared to the end
    if not (workdir / "config.json").exists() and not (workdir / NAME).exists():
        foreign = sorted(p.name for p in workdir.iterdir()) if workdir.is_dir() else []
        foreign = [name for name in foreign if name not in ("events.jsonl", lock.NAME)]
        if foreign:
            names = ", ".join(foreign[:3])
            raise JaxptError(f"{workdir} is not empty and no run ({names}); give another --workdir")
        write_files(workdir, new)
        return []
    digests, lines = _restored(workdir, new)
    if digests is not None and _unfinished(digests):
        if odd := digests.files.keys() - new.keys():
            raise JaxptError(
                f"{workdir} was begun with another tokenizer ({min(odd)}) and killed before its first step; remove it"
            )
        write_files(workdir, new)
        return []
    changed = _changes(workdir, new, model, tokenizer)
    kept = _tokenizer_files(workdir, digests, tokenizer)
    for name in [n for n in new if n.startswith("tokenizer/") and kept]:
        del new[name]
    if finished_steps(workdir):
        del new["lineage.json"]  # of the start that the checkpoints come from
    write_files(workdir, new, [f for f in ("lineage.json", *kept) if f not in new and (workdir / f).exists()])
    return [*lines, *changed]


def _restored(workdir: Path, new: Mapping[str, bytes]) -> tuple[Digests | None, list[str]]:
    """Returns the digests of a run whose files are what was written, and a line for each that had to be restored.

    Raises:
        JaxptError: a damaged file that `new` does not restore exactly.
    """
    try:
        digests = open_digests(workdir, WAY_OUT)
    except JaxptError:
        if (workdir / NAME).is_dir() or any(read_bytes(workdir / n) != content for n, content in new.items()):
            raise
        (workdir / NAME).unlink(missing_ok=True)  # the files are proven by what they should hold
        write_files(workdir, new)
        return open_digests(workdir, WAY_OUT), [f"{workdir / NAME} was damaged; written again, the files are whole"]
    if digests is None:
        return None, []
    again = {}
    for name, allowed in digests.files.items():
        old = read_bytes(workdir / name)
        if (None if old is None else hashlib.sha256(old).hexdigest()) in allowed:
            continue
        if name in new and (old == new[name] or hashlib.sha256(new[name]).hexdigest() in allowed):
            again[name] = new[name]
        else:
            digests.read(name)
    if again:
        write_files(workdir, again)
    return digests, [f"{workdir / name} was damaged; written again exactly as it was" for name in again]


def _unfinished(digests: Digests) -> bool:
    """Whether a first start was killed while it wrote these files."""
    return None in digests.files.get("config.json", ()) and not (digests.folder / "config.json").exists()


def _changes(workdir: Path, new: Mapping[str, bytes], model: ModelConfig, tokenizer: Tokenizer | None) -> list[str]:
    """Returns a line for each key of the config that changed; raises where the run would become another one."""
    changed = []
    for key, old, value in differences(_stored_config(workdir), json.loads(new["config.json"])):
        if key.split(".")[0] in FIXED:
            raise _another_run(workdir, f"config.{key}", old, value)
        changed.append(f"config.{key}: {old!r} before, {value!r} now")
    if (workdir / "model.json").exists():
        for key, old, value in differences(stored_model(workdir).to_dict(), model.to_dict()):
            raise _another_run(workdir, f"the model's {key}", old, value)
        before = read_json(workdir, "model.json", dict, WAY_OUT).get("tokenizer_fingerprint")
        now = json.loads(new["model.json"])["tokenizer_fingerprint"]
        if before is None and now is not None:
            changed.append("the run had no tokenizer, its source carries one now")
        elif before != now and (tokenizer is None or not accepts(tokenizer, before, str(workdir))):
            raise _another_run(workdir, "the tokenizer's fingerprint", (before or "none")[:12], (now or "none")[:12])
    return changed


def _stored_config(workdir: Path) -> dict[str, Any]:
    """Returns the run's config with the keys of today, as far as it can still be read."""
    stored = read_json(workdir, "config.json", dict, WAY_OUT)
    try:
        return plain(build(RunConfig, stored))
    except JaxptError:  # it names, for instance, code of the user's own that is no more
        return stored


def _another_run(workdir: Path, what: str, old: object, value: object) -> JaxptError:
    return JaxptError(
        f"{workdir} holds a run with {what}={old!r}, now it is {value!r}; take that value or another --workdir"
    )


def _tokenizer_files(workdir: Path, digests: Digests | None, tokenizer: Tokenizer | None) -> list[str]:
    """Returns the names of the files of the run's tokenizer; raises where it is not `tokenizer`."""
    if digests is not None:
        return [name for name in digests.files if name.startswith("tokenizer/")]
    if not (workdir / "tokenizer").is_dir():
        return []
    before = tokenizers.load(workdir / "tokenizer")  # of a run from before there were digests
    fingerprint = None if tokenizer is None else tokenizer.fingerprint
    if before.fingerprint != fingerprint:
        raise _another_run(
            workdir, "the tokenizer's fingerprint", before.fingerprint[:12], (fingerprint or "none")[:12]
        )
    return [f"tokenizer/{name}" for name in before.contents()]


def differences(before: object, now: object, where: str = "") -> list[tuple[str, object, object]]:
    """Returns `(key, before, now)` for every leaf that differs between two trees of plain values."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *[k for k in now if k not in before]]
        dotted = f"{where}." if where else ""
        return [d for k in keys for d in differences(before.get(k), now.get(k), f"{dotted}{k}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [d for i, (a, b) in enumerate(zip(before, now)) for d in differences(a, b, f"{where}[{i}]")]
    return [] if before == now else [(where, before, now)]


def _json(values: object) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
