"""Files are whole or not there, and what the system says against a write is one line with a path and a way out."""

import errno
import os

import pytest

from jaxpt.cli.dispatch import mistakes_in_a_line
from jaxpt.errors import JaxptError
from jaxpt.files.partial import user_line, whole_file

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError("22400 requested and 12256 written"),  # numpy
    OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),  # pyarrow
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_names_the_file_and_leaves_nothing_of_it(tmp_path, error):
    target = tmp_path / "a" / "rows.npy"

    def write():
        with whole_file(target, target.with_suffix(".tmp")) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(JaxptError, match=rf"{target}: the disk is full \([\d,]+ MiB free\); free space"):
        write()
    assert list(target.parent.iterdir()) == []


def test_what_was_there_stays_where_a_write_fails(tmp_path):
    target = tmp_path / "note"
    target.write_text("before")

    def fail():
        with whole_file(target, tmp_path / "note.tmp") as temporary:
            temporary.write_text("after")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "before"
    with whole_file(target, tmp_path / "note.tmp") as temporary:
        temporary.write_text("after")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("note", "after")]


KINDS = ["ENOSPC", "EDQUOT", "EACCES", "EROFS", "EISDIR", "ENOTDIR", "ENAMETOOLONG", "ENOENT", "EEXIST", "EIO"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_mistake_is_one_line_with_path_and_way_out(capsys, kind):
    def main():
        number = getattr(errno, kind)
        raise OSError(number, os.strerror(number), "some/path")

    assert mistakes_in_a_line("jaxpt x", main) == 1
    line = capsys.readouterr().err
    assert line.startswith("jaxpt x: some/path: ")
    assert "; " in line
    assert line.count("\n") == 1
    assert "Errno" not in line


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "Bad file descriptor"), ZeroDivisionError(), ValueError("x")])
def test_a_fault_of_ours_keeps_its_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        mistakes_in_a_line("jaxpt x", main)
    assert not isinstance(error, OSError) or user_line(error) is None
