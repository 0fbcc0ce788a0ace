"""A signal is counted once, asks first and ends the process the second time, whatever the main thread is doing."""

import ctypes
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxpt.cli.stopping import Requests, Stopped, no_interrupt_lost

ROOT = Path(__file__).resolve().parents[2]
IN_C = """
import hashlib
from jaxpt.cli.stopping import Requests, write_line
with Requests(lambda name: write_line(f"first {name}"), lambda name: write_line(f"second {name}")):
    write_line("begun")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)  # no handler of Python's runs until it is done
"""


class Asked(Requests):
    """Notes what would be said."""

    def __init__(self):
        self.said = []
        super().__init__(lambda name: self.said.append(name), lambda name: self.said.append(f"{name} again"))


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_the_first_signal_asks_and_is_counted_once(number, name):
    before = signal.getsignal(number)
    with Asked() as asked:
        signal.raise_signal(number)
        time.sleep(0.1)  # the thread hears of it, too
    assert asked.said == [name] == [asked.name]
    assert signal.getsignal(number) == before


def test_two_signals_end_the_process_at_once_while_the_main_thread_is_in_c():
    started = subprocess.Popen([sys.executable, "-c", IN_C], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert started.stderr.readline() == "begun\n"
        started.send_signal(signal.SIGINT)
        assert started.stderr.readline() == "first Ctrl-C\n"
        started.send_signal(signal.SIGTERM)
        assert started.stderr.readline() == "second SIGTERM\n"
        assert started.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        started.kill()


def broken_off(asked):
    """Something long that a signal comes into."""
    with asked.abandoning():
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)


def test_what_may_be_abandoned_is_left_at_once_and_nothing_else():
    with Asked() as asked:
        with pytest.raises(Stopped, match="Ctrl-C"):
            broken_off(asked)
        with pytest.raises(Stopped), asked.abandoning():
            pytest.fail("it was asked to stop before")
    with Asked() as asked:
        with asked.abandoning():
            pass
        signal.raise_signal(signal.SIGINT)
        assert asked.said == ["Ctrl-C"]


def swallowed():
    """A library's callback, in which Ctrl-C comes."""
    ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))()
    time.sleep(1.0)


def test_a_ctrl_c_inside_a_callback_is_not_lost_and_prints_nothing(capfd):
    with pytest.raises(KeyboardInterrupt), no_interrupt_lost():
        swallowed()
    assert capfd.readouterr().err == ""


def test_python_itself_loses_it(monkeypatch):  # the proof above can fail
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: lost.append(what.exc_type))
    swallowed()
    assert lost == [KeyboardInterrupt]


def test_a_stop_inside_a_callback_is_known_and_acts_at_the_next_chance(capfd):
    with no_interrupt_lost(), Asked() as asked:
        with asked.abandoning():
            swallowed()
        with pytest.raises(Stopped), asked.abandoning():
            pass
    assert capfd.readouterr().err == ""
