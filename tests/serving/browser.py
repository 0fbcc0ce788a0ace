"""Headless Chromium, driven over its debugging pipe: no library, no port."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)


class Page:
    """One page: where it goes, what it holds, and what it said on its console."""

    def __init__(self, write: int, read: int):
        self._write, self._read, self._kept, self._ids = write, read, b"", itertools.count(1)
        self._session: str | None = None
        self.console: list[str] = []  # what the page or the browser complained about
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for name in ("Page", "Runtime", "Log"):
            self.call(f"{name}.enable")

    def call(self, method: str, **params):
        """Asks the browser and returns its answer."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 20
        while True:
            answer = self._next(end)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") == "Log.entryAdded":
                entry = answer["params"]["entry"]
                self.console.append(f"{entry['text']} {entry.get('url', '')}")
            if answer.get("method") == "Runtime.exceptionThrown":
                self.console.append(json.dumps(answer["params"]["exceptionDetails"]))

    def _next(self, end: float):
        while b"\0" not in self._kept:
            ready = select.select([self._read], [], [], max(0, end - time.monotonic()))[0]
            assert ready, "Chromium does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has gone"
            self._kept += part
        line, _, self._kept = self._kept.partition(b"\0")
        return json.loads(line)

    def run(self, script: str):
        """Returns the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 15) -> None:
        """Returns when a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}; page: {self.run('document.body.innerText')}"
            time.sleep(0.02)

    def go(self, url: str) -> None:
        """Opens `url` and waits until it has loaded."""
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Presses and releases a key that has a name."""
        code = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37}[key]
        more = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def look(self, file: Path, *, width: int, height: int, dark: bool, phone: bool = False) -> None:
        """Writes a picture of the page as such a screen shows it."""
        self.screen(width=width, height=height, dark=dark, phone=phone)
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def screen(self, *, width: int, height: int, dark: bool, phone: bool = False) -> None:
        """Sets the size of the screen and whether it is dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Starts Chromium with a new profile and ends it afterwards."""
    assert CHROMIUM
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
    flags += ["--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={profile}"]

    def pipes() -> None:  # the browser reads from 3 and writes to 4
        low, high = os.dup(theirs_in), os.dup(theirs_out)
        os.dup2(low, 3)
        os.dup2(high, 4)

    process = subprocess.Popen(
        [CHROMIUM, *flags, "about:blank"], preexec_fn=pipes, close_fds=False, stderr=subprocess.DEVNULL
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(ours_out, ours_in)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_out)
        os.close(ours_in)
