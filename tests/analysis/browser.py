"""Headless Chromium for tests of pages."""

import fcntl
import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """Headless Chromium, spoken to in its DevTools protocol: JSON over a pair of pipes, its descriptors 3 and 4."""

    def __init__(self, program: str, profile: Path) -> None:
        from_us, self.to_browser = os.pipe()
        self.from_browser, to_us = os.pipe()
        # Above 3 and 4, so that neither is overwritten before it is copied.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (from_us, to_us)]
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            [program, *flags, "--remote-debugging-pipe", "about:blank"],
            preexec_fn=lambda: [os.dup2(end, number) for number, end in enumerate(ends, 3)],
            pass_fds=(3, 4),
            stderr=subprocess.DEVNULL,
        )
        for end in (from_us, to_us, *ends):
            os.close(end)
        self.unread, self.n_calls, self.events = b"", 0, list[dict[str, Any]]()
        self.session: dict[str, str] = {}
        targets = self.call("Target.getTargets")["targetInfos"]
        (tab,) = [target["targetId"] for target in targets if target["type"] == "page"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.n_calls += 1
        message = {"id": self.n_calls, "method": method, "params": parameters} | self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self.n_calls:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not self.of("Page.loadEventFired"):
            self.events.append(self._read())
        self.js(
            "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
        )  # sizes have been observed by then

    def js(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, text: str) -> None:
        codes = {"key": key, "text": text, "windowsVirtualKeyCode": ord(text)}
        self.call("Input.dispatchKeyEvent", type="keyDown", **codes)
        self.call("Input.dispatchKeyEvent", type="keyUp", **codes)

    def of(self, *methods: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") in methods]

    def close(self) -> None:
        self.session = {}
        self.call("Browser.close")
        self.process.wait(60)
        os.close(self.to_browser)
        os.close(self.from_browser)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            ready, _, _ = select.select([self.from_browser], [], [], 60)
            assert ready, "the browser has not answered for a minute"
            read = os.read(self.from_browser, 1 << 20)
            assert read, "the browser has ended"
            self.unread += read
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)
