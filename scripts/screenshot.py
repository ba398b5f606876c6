"""Take a picture of a page with a headless Chromium, such as those in docs/images.

    scripts/with_env.sh python scripts/screenshot.py URL FILE.png --wait TEXT [--login USER:PASSWORD]

`--login` is for pages of `make airflow`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import Browser, browser

_PATIENCE = 60  # seconds for a page to have its text


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
    args = parser.parse_args()
    try:
        with browser() as page:
            _take(page, args)
    except AssertionError as error:
        raise SystemExit(f"screenshot: {error}") from None


def _take(page: Browser, args: argparse.Namespace) -> None:
    width, height = map(int, args.size.split("x"))
    if args.login:
        page.call("Network.setCookie", name="_token", value=token(args.url, args.login), url=args.url)
    page.open(args.url, width, "light", height)
    end = time.monotonic() + _PATIENCE
    while not page.value(f"document.body && document.body.innerText.includes({json.dumps(args.wait)})"):
        assert time.monotonic() < end, f"{args.url} had no {args.wait!r} within {_PATIENCE} s"
        time.sleep(0.2)
    if args.script:
        page.value(args.script)
    time.sleep(args.settle)
    page.picture(args.file, whole=False, height=height)


if __name__ == "__main__":
    main()
