"""Take a picture of a page with a headless Chromium, such as those in docs/images.

    scripts/airflow.sh run python scripts/screenshot.py URL FILE.png --wait TEXT [--login USER:PASSWORD]

It runs in Airflow's environment, which has what talks to a browser. `--login` is for pages of `make airflow`.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from websockets.sync.client import ClientConnection, connect


class Page:
    """A tab of a browser, spoken to by the DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.number = itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method; returns its result."""
        number = next(self.number)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:  # events come between
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == number:
                if "error" in answer:
                    raise SystemExit(f"screenshot: {method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def wait(self, script: str, seconds: float) -> None:
        """Wait until a script says true."""
        end = time.monotonic() + seconds
        while not self.call("Runtime.evaluate", expression=script)["result"].get("value"):
            if time.monotonic() > end:
                raise SystemExit(f"screenshot: not within {seconds:.0f} s: {script}")
            time.sleep(0.2)


def token(url: str, login: str) -> str:
    """Log in at Airflow; returns what its cookie `_token` holds."""
    user, password = login.split(":", 1)
    address = "{0.scheme}://{0.netloc}/auth/token".format(urlsplit(url))
    body = json.dumps({"username": user, "password": password}).encode()
    with urlopen(Request(address, body, {"Content-Type": "application/json"}), timeout=60) as answer:
        return str(json.load(answer)["access_token"])


def main() -> None:
    """Start the browser, open the page, wait for its text, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--wait", required=True, help="text that the page has when it is complete")
    parser.add_argument("--script", help="run in the page then, to open what is closed at first")
    parser.add_argument("--settle", type=float, default=3, help="seconds more, for what is drawn after that text")
    parser.add_argument("--login", help="user and password of Airflow")
    parser.add_argument("--size", default="1440x700", help="of the window, in pixels")
    parser.add_argument("--chromium", default="chromium")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            args.chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                _take(Path(profile) / "DevToolsActivePort", args, width, height)
            finally:
                browser.terminate()


def _take(found: Path, args: argparse.Namespace, width: int, height: int) -> None:
    for _ in range(300):
        if found.exists() and found.read_text().strip():
            break
        time.sleep(0.1)
    port = found.read_text().split()[0]
    with urlopen(Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT"), timeout=60) as answer:
        address = json.load(answer)["webSocketDebuggerUrl"]
    with connect(address, max_size=None) as socket:
        page = Page(socket)
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        if args.login:
            page.call("Network.setCookie", name="_token", value=token(args.url, args.login), url=args.url)
        page.call("Page.navigate", url=args.url)
        page.wait(f"document.body && document.body.innerText.includes({json.dumps(args.wait)})", 60)
        if args.script:
            page.call("Runtime.evaluate", expression=args.script)
        time.sleep(args.settle)
        args.file.write_bytes(base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"]))


if __name__ == "__main__":
    main()
