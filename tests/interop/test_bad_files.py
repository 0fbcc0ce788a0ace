"""Damaged files, targets that cannot be written, full disks, killed processes: one line, nothing half-written."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxpt import cli
from jaxpt.errors import JaxptError
from jaxpt.files.partial import partial_directory, storage_error
from jaxpt.interop import export_bundle, import_bundle, load_hf
from tests.files.largest_file import largest_file
from tests.interop.made import hf_directory

HEADERS = {
    "not a dictionary of tensors": lambda h: [h],
    "model.norm.weight has no dtype": lambda h: {**h, "model.norm.weight": {"shape": [24]}},
    "model.norm.weight has no shape or place": lambda h: {**h, "model.norm.weight": {"dtype": "F32", "shape": [-1]}},
    "has 1 data_offsets": lambda h: {**h, "a": {"dtype": "F32", "shape": [0], "data_offsets": [0]}},
    "a does not begin where": lambda h: {**h, "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    "truncated or damaged": lambda h: {k: v for k, v in h.items() if v != last(h)},
    "F16 [24], has 96 bytes": lambda h: {**h, "model.norm.weight": {**h["model.norm.weight"], "dtype": "F16"}},
}


def last(header):
    return max((v for v in header.values() if "data_offsets" in v), key=lambda v: v["data_offsets"])


@pytest.mark.parametrize("message", HEADERS)
def test_a_damaged_header_is_said_in_one_line(tmp_path, message):
    hf = hf_directory(tmp_path)
    data = (hf / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(HEADERS[message](json.loads(data[8 : 8 + size]))).encode()
    (hf / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    with pytest.raises(JaxptError) as error:
        import_bundle(hf, tmp_path / "b")
    assert message in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_a_damaged_index_and_a_tensor_in_two_shards_are_said(tmp_path):
    hf = hf_directory(tmp_path)
    index = hf / "model.safetensors.index.json"
    for text, message in (
        ("[]", "holds a list, no dictionary of keys"),
        ("{}", "has no weight_map from tensors to files beside it"),
        ('{"weight_map": {"a": "../other/model.safetensors"}}', "has no weight_map from tensors to files beside it"),
        ('{"weight_map": {"a": "model.safetensors", "b": "two.safetensors"}}', "model.norm.weight is in"),
    ):
        index.write_text(text)
        save_file({"model.norm.weight": np.zeros(24, np.float32)}, hf / "two.safetensors")
        with pytest.raises(JaxptError, match=re.escape(message)):
            load_hf(hf)


def test_bad_files_are_refused_and_leave_nothing(tmp_path):
    hf = hf_directory(tmp_path)
    weights = hf / "model.safetensors"
    good = weights.read_bytes()

    def refused(message):
        with pytest.raises(JaxptError, match=message):
            import_bundle(hf, tmp_path / "b")
        assert not [p for p in tmp_path.iterdir() if p.name not in ("hf", "exists")]

    weights.write_bytes(good[:-100])
    refused("truncated or damaged")
    weights.write_bytes(good[:5])
    refused("is truncated or no safetensors file")
    weights.write_bytes(b"\x10" + b"\0" * 7 + b"not json at all!" + good)
    refused("its header is not JSON")
    tensors = {k: np.array(v) for k, v in _load(good, tmp_path).items()}
    save_file({**tensors, "extra.weight": np.zeros(3, np.float32)}, weights)
    refused("holds tensors the config does not describe: extra.weight")
    save_file({**tensors, "model.norm.weight": np.zeros(24, np.int32)}, weights)
    refused("model.norm.weight is I32; only F32, BF16, F16 are read")
    weights.unlink()
    refused(r"holds no \*.safetensors")
    (hf / "pytorch_model.bin").write_bytes(b"x")
    refused(r"holds pickles \(pytorch_model.bin\).*save_pretrained\('OUT'\)")
    (hf / "config.json").write_text("{")
    refused("config.json is not JSON")
    (hf / "config.json").unlink()
    refused("config.json does not exist")
    weights.write_bytes(good)


def _load(data, folder):
    (folder / "hf" / "tmp").write_bytes(data)
    out = load_file(folder / "hf" / "tmp")
    (folder / "hf" / "tmp").unlink()
    return out


def test_targets_that_exist_or_cannot_be_written_are_refused(tmp_path):
    hf = hf_directory(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(JaxptError, match="exists; remove it"):
        import_bundle(hf, tmp_path / "there")
    import_bundle(hf, tmp_path / "b")
    with pytest.raises(JaxptError, match="exists; remove it"):
        export_bundle(tmp_path / "b", tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxptError, match="cannot be written"):
        export_bundle(tmp_path / "b", tmp_path / "file" / "hf")
    with pytest.raises(JaxptError, match="cannot be written"):
        import_bundle(hf, tmp_path / "file" / "b")


def test_import_and_export_never_change_what_they_read(tmp_path, capsys):
    def contents(folder):
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    hf, bundle = hf_directory(tmp_path), tmp_path / "b"
    import_bundle(hf, bundle)
    for command, source in (("import", hf), ("export", bundle)):
        before = contents(source)
        link = tmp_path / f"{command}_link"
        link.symlink_to(source)
        for target in (source, f"{source}/", link, source / ".." / source.name):
            assert cli.main([command, f"--from={source}", f"--to={target}"]) == 1
            assert "exists; remove it" in capsys.readouterr().err
            assert contents(source) == before
        assert cli.main([command, f"--from={source}", f"--to={source}/inside"]) == 0
        assert {name: contents(source)[name] for name in before} == before


def test_a_directory_that_may_not_be_written_is_refused(tmp_path):
    hf = hf_directory(tmp_path)
    import_bundle(hf, tmp_path / "b")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        here = Path(folder)
        shutil.copytree(hf, here / "hf")
        shutil.copytree(tmp_path / "b", here / "b")
        here.chmod(0o555)
        with no_rights():
            for make, source in ((import_bundle, "hf"), (export_bundle, "b")):
                with pytest.raises(JaxptError, match=r"cannot be written \(Permission denied\); choose another"):
                    make(here / source, here / "to")
        assert {p.name for p in here.iterdir()} == {"hf", "b"}
        here.chmod(0o755)


@contextmanager
def no_rights():
    """As a user without rights: the superuser may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_disk_that_takes_no_more_is_said_and_nothing_is_left(tmp_path):
    hf = hf_directory(tmp_path)
    import_bundle(hf, tmp_path / "b")
    for make in (import_bundle, export_bundle):
        source = hf if make is import_bundle else tmp_path / "b"
        with largest_file(500), pytest.raises(JaxptError) as error:
            make(source, tmp_path / "to")
        assert "writing failed" in str(error.value)
        assert "\n" not in str(error.value)
        assert {p.name for p in tmp_path.iterdir()} == {"hf", "b"}
    message = storage_error(tmp_path / "to", OSError(errno.ENOSPC, "No space left on device"))
    assert "the disk is full" in str(message)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    hf = hf_directory(tmp_path)
    with partial_directory(tmp_path / "b") as mine:
        name = mine.name.rpartition("-")[0]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        (tmp_path / f"{name}-{pid}").mkdir()
    import_bundle(hf, tmp_path / "b")
    assert {p.name for p in tmp_path.iterdir()} == {"hf", "b", f"{name}-{os.getppid()}"}
