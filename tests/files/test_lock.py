"""One writer for a directory: who gets the lock, who is refused, who is taken for gone, and who keeps it alive."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from jaxpt.errors import JaxptError
from jaxpt.files import holder, lock
from jaxpt.files.holder import Holder, read_holder
from jaxpt.files.lock import HeldElsewhere, Lock, beside, inside


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "SETTLE", 0.05)
    monkeypatch.setattr(lock, "BEAT", 0.1)


def taken(folder):
    return Lock(inside(folder), folder)


def elsewhere(folder, silence=0.0, **facts):
    """Leaves the record of a writer on another machine, whose lock does not reach here."""
    now = time.time()
    values = {**vars(Holder.this_process()), "host": "nodeB", "pid": 77, "boot": "other", "token": "t" * 32}
    record = Holder(**{**values, "started": now - 1000, "beat": now - silence, **facts})
    folder.mkdir(exist_ok=True)
    inside(folder).write_bytes(record.to_bytes())
    return record


def test_a_second_writer_is_refused_at_once_and_gets_it_after_the_first(tmp_path):
    with taken(tmp_path / "run").acquire() as first:
        first.check()
        began = time.monotonic()
        with pytest.raises(HeldElsewhere, match=f"process {os.getpid()} on {socket.gethostname()} .since 20"):
            taken(tmp_path / "run").acquire()
        assert time.monotonic() - began < 1
    assert not (tmp_path / "run").exists()  # made for the lock, and nothing was written
    with taken(tmp_path / "run").acquire():
        pass


def _hold(folder, ready, child):
    """Takes the lock, starts a child that stays behind, and waits to be killed."""
    taken(folder).acquire()
    if child == "fork":
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    elif child == "multiprocessing":
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
    elif child == "spawn":
        multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,)).start()
    elif child == "exec":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    time.sleep(0.3)
    ready.set()
    time.sleep(600)


def killed_with_a_child(folder, child):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(folder, ready, child))
    process.start()
    assert ready.wait(60)
    with pytest.raises(HeldElsewhere, match=f"process {process.pid} on"):
        taken(folder).acquire()
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return [int(c) for c in children]


@pytest.mark.parametrize("child", ["none", "fork", "multiprocessing", "spawn", "exec"])
def test_death_releases_the_lock_though_a_child_lives_on(tmp_path, child):
    children = killed_with_a_child(tmp_path, child)
    try:
        assert bool(children) == (child != "none")
        began = time.monotonic()
        with taken(tmp_path).acquire():
            assert time.monotonic() - began < 0.04  # no waiting for a heartbeat: the lock decides
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


def _hold_with_leak(folder, ready):
    lock._let_go_in_child = None
    lock._HELD = type("Nothing", (set,), {"__iter__": lambda self: iter(())})()
    _hold(folder, ready, "fork")


def test_a_forked_child_that_kept_the_file_open_would_keep_the_lock(tmp_path):  # the test above can fail
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold_with_leak, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(HeldElsewhere, match=r"something that process .* started; that process has ended"):
        taken(tmp_path).acquire()
    with taken(tmp_path).acquire(take_over=True):
        pass
    for pid in children:
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("facts", [{}, {"host": socket.gethostname(), "pid": os.getpid()}])
def test_the_heartbeat_decides_where_the_lock_does_not_reach(tmp_path, monkeypatch, facts):
    elsewhere(tmp_path, silence=lock.STALE - 5, **facts)
    with pytest.raises(HeldElsewhere, match=r"last heartbeat 11\d s ago; .* if it is gone, wait \d s, or remove"):
        taken(tmp_path).acquire()
    with pytest.raises(HeldElsewhere, match="or give --take_over"):
        taken(tmp_path).acquire(take_over=False)
    elsewhere(tmp_path, silence=lock.STALE + 5, **facts)
    with taken(tmp_path).acquire(take_over=False) as mine:
        mine.check()
    elsewhere(tmp_path, **facts)
    with taken(tmp_path).acquire(take_over=True) as mine:
        mine.check()


def test_a_writer_with_a_wrong_clock_is_seen_beating(tmp_path, monkeypatch):
    late = elsewhere(tmp_path, silence=3600)
    beats = threading.Timer(0.05, lambda: elsewhere(tmp_path, silence=3500))
    beats.start()
    with pytest.raises(HeldElsewhere, match="nodeB"):
        taken(tmp_path).acquire()
    beats.join()
    assert read_holder(inside(tmp_path)).token == late.token  # and is left in peace


def test_without_locks_of_the_system_the_record_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_lock", lambda fd: None)
    with taken(tmp_path).acquire():
        with pytest.raises(HeldElsewhere, match=f"process {os.getpid()} on"):
            taken(tmp_path).acquire(take_over=True)
        monkeypatch.setattr(socket, "gethostname", lambda: "nodeC")
        with pytest.raises(HeldElsewhere, match="last heartbeat 0 s ago"):
            taken(tmp_path).acquire()
    monkeypatch.undo()
    monkeypatch.setattr(lock, "SETTLE", 0.05)
    monkeypatch.setattr(lock, "_lock", lambda fd: None)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = Holder.this_process()
    inside(tmp_path).write_bytes(Holder(**{**vars(mine), "pid": gone.pid, "born": "1"}).to_bytes())
    with taken(tmp_path).acquire():  # of this machine, and gone: at once
        pass
    inside(tmp_path).write_bytes(Holder(**{**vars(mine), "born": "1"}).to_bytes())
    with taken(tmp_path).acquire():  # its process id is that of a later process
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_folder_without_locks_is_known_by_its_errors(tmp_path, monkeypatch, number):
    def refuse(*args):
        raise OSError(number, "no locks")

    monkeypatch.setattr(lock.fcntl, "fcntl", refuse)
    assert lock._lock(0) is None


def test_two_who_take_over_at_once_are_not_both_writers(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_lock", lambda fd: None)
    monkeypatch.setattr(lock, "SETTLE", 0.3)
    elsewhere(tmp_path)
    got = []

    def take():
        try:
            got.append(taken(tmp_path).acquire(take_over=True))
        except HeldElsewhere as error:
            got.append(error)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sum(isinstance(g, Lock) for g in got) == 1
    next(g for g in got if isinstance(g, Lock)).release()


def test_a_writer_that_was_replaced_notices_and_spoils_nothing(tmp_path):
    with taken(tmp_path).acquire() as loser:
        with pytest.MonkeyPatch.context() as m:
            m.setattr(socket, "gethostname", lambda: "nodeD")
            winner = taken(tmp_path).acquire(take_over=True)
        time.sleep(0.5)  # beats of both
        winner.check()
        with pytest.raises(JaxptError, match=r"has another writer: process .* on nodeD"):
            loser.check()
    assert read_holder(inside(tmp_path)).host == "nodeD"  # the loser's end did not remove it
    winner.release()
    assert not inside(tmp_path).exists()


def test_a_removed_lock_file_is_made_anew(tmp_path):
    with taken(tmp_path).acquire() as first:
        inside(tmp_path).unlink()
        first.check()
        with pytest.raises(HeldElsewhere):
            taken(tmp_path).acquire()
        inside(tmp_path).unlink()
        with taken(tmp_path).acquire(), pytest.raises(JaxptError, match="another writer"):
            first.check()


def test_the_heartbeat_is_renewed_and_a_folder_out_of_reach_ends_the_writer(tmp_path, monkeypatch):
    with taken(tmp_path).acquire() as mine:
        first = read_holder(inside(tmp_path)).beat
        time.sleep(0.4)
        assert read_holder(inside(tmp_path)).beat > first

        def stale(file):
            raise OSError(errno.ESTALE, "stale file handle")

        monkeypatch.setattr(lock, "read_holder", stale)
        mine.check()  # for a moment
        monkeypatch.setattr(lock, "STALE", 0.2)
        time.sleep(0.4)
        with pytest.raises(JaxptError, match="out of reach"):
            mine.check()


@pytest.mark.parametrize("garbage", [b"", b"{", b"[1]", b'{"host": 1}', b"\0" * 600, "é".encode() * 9])
def test_garbage_in_the_lock_file_is_no_obstacle(tmp_path, garbage):
    inside(tmp_path).write_bytes(garbage)
    with taken(tmp_path).acquire() as mine:
        mine.check()
        assert json.loads(inside(tmp_path).read_bytes())["pid"] == os.getpid()


def test_what_cannot_be_locked_is_one_line(tmp_path):
    inside(tmp_path).mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").mkdir()
    inside(tmp_path / "link").symlink_to(tmp_path / "file")
    for folder in (tmp_path, tmp_path / "file", tmp_path / "link", tmp_path / "file" / "run"):
        with pytest.raises(JaxptError, match=r"cannot be written: .*give another --workdir") as message:
            taken(folder).acquire()
        assert "\n" not in str(message.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(JaxptError, match="No space left on device"):
        taken(tmp_path / "run").acquire()


def test_who_waits_says_for_whom_and_gets_it(tmp_path):
    first, said = Lock(beside(tmp_path / "x"), "x").acquire(), []
    threading.Timer(0.7, first.release).start()
    with Lock(beside(tmp_path / "x"), "x").wait(said.append):
        assert len(said) == 1
        assert said[0].startswith(f"waiting for process {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_a_process_is_said_from_a_later_one_with_its_number():
    assert Holder.this_process().is_alive
    assert not Holder(**{**vars(Holder.this_process()), "born": "1"}).is_alive
    assert holder._born(2**22 + 1) == ""
