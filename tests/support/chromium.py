"""A real browser for tests: headless Chromium, told what to do over its DevTools protocol."""

import base64
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

__all__ = ["Tab", "browsing"]

FLAGS = (
    "--headless=new",
    "--no-first-run",
    "--disable-gpu-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    "--use-angle=swiftshader",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
KEYS = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}


class Tab:
    """One page of the browser. Errors of its scripts are kept in `errors`, requests in `requests`."""

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self._socket, self._session, self._numbers = socket, session, itertools.count(1)
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol and its result."""
        number = next(self._numbers)
        message = {"id": number, "sessionId": self._session, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            said = json.loads(self._socket.recv(timeout=30))
            if said.get("id") == number:
                assert "error" not in said, f"{method}: {said['error']}"
                result: dict[str, Any] = said["result"]
                return result
            self._note(said)

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        said = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, script: str, timeout_s: float = 20.0) -> Any:
        """The value of an expression, once it is true."""
        end = time.monotonic() + timeout_s
        while not (value := self.ask(script)):
            assert time.monotonic() < end, f"not within {timeout_s} s: {script}; errors {self.errors}"
            time.sleep(0.05)
        return value

    def open(self, url: str) -> None:
        """Go to an address, and wait until it is loaded."""
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href.startsWith('http')")

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        code = KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )

    def click(self, selector: str) -> None:
        """Click in the middle of an element."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self._mouse(kind, x, y)

    def bring(self, selector: str, path: Path) -> None:
        """Choose a file in a field for files."""
        field = self.send("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.send("DOM.setFileInputFiles", objectId=field["result"]["objectId"], files=[str(path)])

    def drag(self, selector: str, right: float, down: float) -> None:
        """Drag from the middle of an element."""
        x, y = self.middle(selector)
        self._mouse("mousePressed", x, y)
        for share in (0.25, 0.5, 0.75, 1.0):
            self._mouse("mouseMoved", x + right * share, y + down * share)
        self._mouse("mouseReleased", x + right, y + down)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where the middle of an element is, scrolled into view."""
        box = self.ask(
            f"(() => {{const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView("
            "{block: 'nearest'}); const b = e.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return float(box[0]), float(box[1])

    def picture(self, path: Path | None = None) -> bytes:
        """A PNG of what can be seen."""
        data = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def prefer(self, scheme: str) -> None:
        """What the system prefers: dark or light."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def size(self, width: int, height: int) -> None:
        """How large the window is, in pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def download_to(self, folder: Path) -> None:
        """Where downloads go."""
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def _mouse(self, kind: str, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def _note(self, said: dict[str, Any]) -> None:
        parameters = said.get("params", {})
        match said.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])


@contextmanager
def browsing(
    binary: Path, folder: Path, running: Callable[..., AbstractContextManager[int]]
) -> Iterator[Callable[[], Tab]]:
    """A browser with a profile of its own below `folder`: what it gives makes a new tab."""
    profile = folder / "profile"
    said = profile / "DevToolsActivePort"
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # which does not work for the superuser
    command = [str(binary), *FLAGS, *sandbox, f"--user-data-dir={profile}", "about:blank"]
    with running(command, folder / "chromium.log", said.exists):
        while len(lines := said.read_text().split()) < 2:
            time.sleep(0.01)
        url = f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        with connect(url, max_size=None, open_timeout=20, proxy=None) as socket:
            yield lambda: _new_tab(socket)


def _new_tab(socket: ClientConnection) -> Tab:
    def send(number: int, method: str, **parameters: Any) -> dict[str, Any]:
        socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (said := json.loads(socket.recv(timeout=30))).get("id") != number:
            pass
        result: dict[str, Any] = said["result"]
        return result

    target = send(1_000_001, "Target.createTarget", url="about:blank", newWindow=True)["targetId"]
    session = send(1_000_002, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    return Tab(socket, session)
