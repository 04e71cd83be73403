"""A headless Chromium, driven over a pipe: the DevTools protocol without a package.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time

PATH = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)


class Page:
    """A tab."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self._numbers, self._session = itertools.count(1), None
        self.errors = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Runtime", "Page", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Returns what a method of the protocol does; notes errors of the page."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        self._writer.flush()
        while True:
            found = json.loads(self._read())
            if found.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(found["params"])
            if found.get("id") == number:
                assert "error" not in found, found["error"]
                return found["result"]

    def _read(self):
        content = bytearray()
        while (byte := self._reader.read(1)) != b"\0":
            assert byte, "Chromium ended"
            content += byte
        return content

    def run(self, script):
        """Returns the value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script, seconds=30):
        """Waits until an expression is true, and returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)
        return value

    def open(self, path, fragment=""):
        """Opens a file anew and waits until its scripts have run."""
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.call("Page.navigate", url=f"{path.as_uri()}{fragment}")
        self.wait("location.protocol === 'file:' && document.readyState === 'complete'")
        if self.run("document.getElementById('browser') !== null"):
            self.wait("document.documentElement.classList.contains('scripted')")

    def press(self, key):
        """Presses a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def screenshot(self, path, whole=False):
        """Writes what is in view, or the whole page, as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def page(folder):
    """Yields a tab of a new Chromium, whose profile is in `folder`."""
    ours, theirs = os.pipe(), os.pipe()  # What we read, what it reads.
    # It reads descriptor 3 and writes 4.
    command = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
             "--no-first-run", f"--user-data-dir={folder}")  # fmt: skip
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", str(theirs[0]), str(ours[1]), PATH, *flags],
        pass_fds=(theirs[0], ours[1]),
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs[0])
    os.close(ours[1])
    with process, os.fdopen(ours[0], "rb") as reader, os.fdopen(theirs[1], "wb") as out:
        try:
            found = Page(reader, out)
            yield found
            found._session = None
            found.call("Browser.close")
        finally:
            process.terminate()
