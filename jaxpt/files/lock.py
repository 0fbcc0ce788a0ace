"""One writer for a directory: a lock of the system where it holds, and a heartbeat where it does not.

The lock is an open-file-description lock on a small file. The system releases it when the process ends, however that
comes; processes that this one starts do not have it. Some network folders have no locks, or locks that hold on one
machine only. For them the file also says who writes, renewed every `BEAT` seconds: a writer of another machine is taken
for gone `STALE` seconds after its last heartbeat. Readers need no lock.
"""

import contextlib
import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jaxpt.errors import JaxptError
from jaxpt.files.holder import SIZE, Holder, parse_holder, read_holder

NAME = ".jaxpt-lock"
BEAT = 10.0  # seconds between two heartbeats
STALE = 120.0  # seconds of silence after which a writer of another machine is taken for gone
SETTLE = 2.0  # seconds in which a writer that took the same lock on another machine shows itself
POLL = 0.5  # seconds between two looks at a lock that is waited for
HELD = (errno.EAGAIN, errno.EACCES)
SETLK = getattr(fcntl, "F_OFD_SETLK", None)  # Linux; elsewhere flock


def inside(directory: Path) -> Path:
    """Returns the lock file of a directory that is written into."""
    return directory / NAME


def beside(target: Path) -> Path:
    """Returns the lock file of a file or directory that has its name only when it is whole."""
    return target.with_name(f".{target.name}{NAME}")


class HeldElsewhere(JaxptError):
    """Another process holds the lock; the message says which, since when, and the way out."""

    def __init__(self, message: str, holder: Holder | None):
        """Takes the line and the holder (None: it has not written who it is)."""
        super().__init__(message)
        self.holder = holder


class Lock:
    """The right to write into a directory; a context manager once it is acquired."""

    def __init__(self, file: Path, what: str | Path, flag: str = "--workdir"):
        """Prepares the lock; `acquire` takes it.

        Args:
            file: the lock file, `inside` or `beside` what is written.
            what: what is written, as messages name it.
            flag: by which the user can name another place.
        """
        self.file, self._what, self._flag = file, what, flag
        self._fd: int | None = None
        self._taken_by: str | None = None  # another writer, once it is known that this one was taken for gone
        self._mutex = threading.Lock()
        self._stop = threading.Event()

    def acquire(self, take_over: bool | None = None) -> "Lock":
        """Takes the lock at once, or not at all.

        Args:
            take_over: the user says that the writer of another machine is gone; None: the command has no such flag.

        Raises:
            HeldElsewhere: another process has it.
            JaxptError: the lock file cannot be made.
        """
        try:
            self._made = not self.file.parent.is_dir()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            while not self._try(take_over):
                pass
        except OSError as error:
            self._close()
            raise JaxptError(
                f"{self._what} cannot be written: {error.strerror or error} ({self.file}); mend that, or give another "
                f"{self._flag}"
            ) from error
        except BaseException:
            self._close()
            raise
        self._confirmed = time.monotonic()
        _HELD.add(self)
        threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()
        return self

    def wait(self, report: Callable[[str], None] = print) -> "Lock":
        """Takes the lock, waiting as long as another process has it; one line says for whom."""
        shown = None
        while True:
            try:
                return self.acquire()
            except HeldElsewhere as error:
                if error.holder is not None and error.holder.token != shown:
                    shown = error.holder.token
                    report(f"waiting for {error.holder}, which writes {self._what}")
                time.sleep(POLL)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock back and removes its file, and the directory if that was made for it and is empty."""
        self._stop.set()
        _HELD.discard(self)
        with self._mutex:
            if self._fd is None:
                return
            with contextlib.suppress(OSError):
                if self._is_mine():  # removed before it is let go: who opens it now finds that it is gone
                    self.file.unlink()
                    if self._made:
                        self.file.parent.rmdir()
            self._close()

    def check(self) -> None:
        """Makes sure that this process is still the writer; called before each write. Does nothing without the lock.

        A process that was stopped for a while, or cut off from the folder, may have been taken for gone.

        Raises:
            JaxptError: another process has taken over.
        """
        with self._mutex:
            if self._fd is None:
                return
            try:
                self._confirm()
            except OSError as error:
                if time.monotonic() - self._confirmed > STALE:
                    raise JaxptError(
                        f"{self.file} has been out of reach for {STALE:.0f} s ({error.strerror}), so that another "
                        f"process may have taken over; fix that and start again"
                    ) from error
            if self._taken_by:
                raise JaxptError(
                    f"{self._what} has another writer: {self._taken_by} took over from this process "
                    f"({self._me.pid}), which was silent for too long and stops without writing"
                )

    # --- taking it ---

    def _try(self, take_over: bool | None) -> bool:
        """One attempt; False where the file was replaced in the meantime."""
        self._me = Holder.this_process()
        self._fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        locked = _lock(self._fd)
        if not self._is_named():
            self._close()
            return False
        data = os.pread(self._file, 4 * SIZE, 0)
        holder = parse_holder(data)
        if locked is False:
            holder = holder or self._introduced()
            if not take_over or holder is None or holder.is_alive:
                raise self._refusal(holder, locked, take_over)
        elif holder is None or holder.is_here:
            if holder is not None and locked is None and holder.is_alive:
                raise self._refusal(holder, locked, take_over)
            self._write()
            if locked is None or (data and holder is None):
                self._settle(locked, take_over)
            return True
        elif not take_over:
            if holder.silence < STALE:
                raise self._refusal(holder, locked, take_over)
            self._watch(holder)
        self._replace()
        self._settle(locked, take_over)
        return True

    def _introduced(self) -> Holder | None:
        """The holder that has just taken the lock, once it has written its record."""
        for _ in range(10):
            time.sleep(0.1)
            if holder := parse_holder(os.pread(self._file, 4 * SIZE, 0)):
                return holder
        return None

    def _replace(self) -> None:
        """Puts a new file in place of that of a writer that is gone: if it is not, it notices, and spoils nothing."""
        self._close()
        new = self.file.with_name(f"{self.file.name}-{self._me.token[:8]}")
        self._fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            _lock(self._fd)
            self._write()
            os.replace(new, self.file)
        except OSError:
            new.unlink()
            raise

    def _settle(self, locked: bool | None, take_over: bool | None) -> None:
        """Lets others who took it at the same moment on other machines show themselves; the last one has it."""
        time.sleep(SETTLE)
        holder = read_holder(self.file)
        if holder is None or holder.token != self._me.token:
            raise self._refusal(holder, locked, take_over)

    def _watch(self, holder: Holder) -> None:
        """Looks for a heartbeat of a silent holder, whose clock may differ from ours."""
        print(f"{self._what}: {holder} has been silent for {holder.silence:.0f} s; watching it for {1.5 * BEAT:.0f} s")
        time.sleep(1.5 * BEAT)
        seen = read_holder(self.file) if self.file.exists() else holder
        if seen != holder:
            raise self._refusal(seen, True, None)

    def _refusal(self, holder: Holder | None, locked: bool | None, take_over: bool | None) -> HeldElsewhere:
        other = f"give another {self._flag}"
        gone = f"remove {self.file}" if take_over is None else "give --take_over"
        if holder is None:
            line = f"a process that has not written its name into {self.file}; wait for its end, or {other}"
        elif holder.is_alive:
            line = f"{holder}; stop that process, or {other}"
            line += f" (--take_over is for a writer that is gone, process {holder.pid} is not)" * bool(take_over)
        elif holder.is_here:
            line = f"something that {holder} started; that process has ended: end what is left of it, or {gone}"
        else:
            left = max(STALE - holder.silence, 0)
            wait = "" if locked is False else f"wait {left:.0f} s, or "
            line = (
                f"{holder}, last heartbeat {holder.silence:.0f} s ago; stop it there, or {other}; if it is gone, {wait}"
                f"{gone}"
            )
        return HeldElsewhere(f"{self._what} is being written by {line}", holder)

    # --- having it ---

    def _confirm(self) -> None:
        """Finds out whether the file is still this writer's; makes it again where somebody removed it."""
        if self._taken_by:
            return
        try:
            holder = read_holder(self.file)
        except FileNotFoundError:
            holder = self._again()
        if holder is None:
            time.sleep(0.1)
            holder = read_holder(self.file)
        if holder is None or holder.token != self._me.token:
            self._taken_by = str(holder or "a process without a name")
        self._confirmed = time.monotonic()

    def _again(self) -> Holder | None:
        """Makes a file again that somebody removed; returns who has it now."""
        fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if _lock(fd) is False:
            os.close(fd)
            return None
        self._close()
        self._fd = fd
        self._write()
        return self._me

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            self._renew()

    def _renew(self) -> None:
        with self._mutex, contextlib.suppress(OSError):  # a folder out of reach for a moment; `check` counts the time
            if self._fd is not None:
                self._confirm()
                if not self._taken_by:
                    self._write()

    @property
    def _file(self) -> int:
        """The descriptor of the open lock file."""
        assert self._fd is not None
        return self._fd

    def _write(self) -> None:
        self._me = self._me.now()
        os.pwrite(self._file, self._me.to_bytes(), 0)
        os.ftruncate(self._file, SIZE)

    def _is_named(self) -> bool:
        """Whether the open file is the one that has the name."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.file, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _is_mine(self) -> bool:
        holder = read_holder(self.file)
        return holder is not None and holder.token == self._me.token

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


_HELD: set[Lock] = set()


def _let_go_in_child() -> None:
    """A forked child shares the open file: were it kept open there, the lock would outlive this process."""
    for lock in _HELD:
        lock._mutex = threading.Lock()  # that of the heartbeat, which does not run here, may be taken
        lock._close()
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


def _lock(fd: int) -> bool | None:
    """Takes the system's lock: True, False where another process has it, None where there are no locks."""
    try:
        if SETLK is None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            fcntl.fcntl(fd, SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        return False if error.errno in HELD else None
    return True
