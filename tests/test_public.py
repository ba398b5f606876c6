"""Public data sets, from a server on the loopback interface that serves tiny stand-ins."""

import hashlib
import http.server
import io
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys_spark.errors import ConfigError, DataError, RunError
from recsys_spark.log import public

U_ITEM = (
    "1|Toy Story (1995)|01-Jan-1995||http://example.org/1|0|0|1|1\n"
    "2|Misérables, Les (1995)|01-Jan-1995||http://example.org/2|0|1|0|0\n"
    "3|unknown|||||1|0|0|0\n".replace("|||||", "||||")
    + "4|Good Morning (1971)|4-Feb-1971||http://example.org/4|0|0|0|0\n"
)
FILES_100K = {
    "u.data": b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
    "u.item": U_ITEM.encode("latin-1"),
    "u.genre": b"unknown|0\nAction|1\nAnimation|2\nComedy|3\n\n",
    "u.user": b"1|24|M|technician|85711\n2|53|F|other|94043\n",
}
ITEMS_100K = [
    "item_id\tmovie_title\trelease_year\tclass",
    "1\tToy Story\t1995\tAnimation Comedy",
    "2\tMisérables, Les\t1995\tAction",
    "3\tunknown\t\tunknown",
    "4\tGood Morning\t1971\t",
]


def zipped(folder: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{folder}/{name}", content)
    return buffer.getvalue()


class Site:
    """What the server answers: bodies by path, and how many bytes of the zip files it really sends."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.sent_share = 1.0
        self.asked: list[str] = []
        self.base = ""

    def publish(self, name: str, body: bytes, digest: str | None = None) -> None:
        self.bodies[f"/{name}"] = body
        digest = digest or hashlib.md5(body).hexdigest()
        self.bodies[f"/{name}.md5"] = f"MD5 ({name}) = {digest}\n".encode()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            body = site.bodies.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            share = site.sent_share if self.path.endswith(".zip") else 1.0
            self.wfile.write(body[: int(len(body) * share)])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    site.base = f"http://127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins with two ratings each."""
    small = {
        "movielens-100k": public.PublicDataset("ml-100k", {"u.data": 2, "u.item": None}),
        "movielens-1m": public.PublicDataset("ml-1m", {"ratings.dat": 2, "movies.dat": None}),
    }
    monkeypatch.setattr(public, "DATASETS", small)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_fetches_checks_and_unpacks(site: Site, tmp_path: Path) -> None:
    files = {
        "ratings.dat": b"1::1193::5::978300760\n1::661::3::978302109\n",
        "movies.dat": b"1::Toy Story (1995)::Comedy\n",
    }
    site.publish("ml-1m.zip", zipped("ml-1m", files))
    folder = public.fetch("movielens-1m", tmp_path / "data", site.base)
    assert folder == tmp_path / "data" / "ml-1m"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    assert sorted(os.listdir(tmp_path / "data")) == ["ml-1m", "ml-1m.zip"]


def test_is_a_no_op_the_second_time(site: Site, tmp_path: Path) -> None:
    site.publish("ml-100k.zip", zipped("ml-100k", FILES_100K))
    public.fetch("movielens-100k", tmp_path, site.base)
    asked = list(site.asked)
    public.fetch("movielens-100k", tmp_path, site.base)
    assert site.asked == asked == ["/ml-100k.zip.md5", "/ml-100k.zip"]


def test_100k_gets_a_table_of_items(site: Site, tmp_path: Path) -> None:
    site.publish("ml-100k.zip", zipped("ml-100k", FILES_100K))
    folder = public.fetch("movielens-100k", tmp_path, site.base)
    assert (folder / "items.tsv").read_text("utf-8").splitlines() == ITEMS_100K
    assert (folder / "users.tsv").read_text("utf-8").splitlines() == [
        "user_id\tage\tgender\toccupation\tzip_code", "1\t24\tM\ttechnician\t85711", "2\t53\tF\tother\t94043",
    ]  # fmt: skip


def test_wrong_sum_leaves_nothing(site: Site, tmp_path: Path) -> None:
    site.publish("ml-100k.zip", zipped("ml-100k", FILES_100K), digest="0" * 32)
    with pytest.raises(RunError, match=r"ml-100k\.zip: the download has MD5 .* published is 0{32}; try again"):
        public.fetch("movielens-100k", tmp_path, site.base)
    assert os.listdir(tmp_path) == []


def test_cut_off_download_leaves_nothing(site: Site, tmp_path: Path) -> None:
    site.publish("ml-100k.zip", zipped("ml-100k", FILES_100K))
    site.sent_share = 0.5
    with pytest.raises(RunError, match=r"cut off after \d+ of \d+ bytes"):
        public.fetch("movielens-100k", tmp_path, site.base)
    assert os.listdir(tmp_path) == []


def test_page_in_place_of_the_sum(site: Site, tmp_path: Path) -> None:
    site.bodies["/ml-100k.zip.md5"] = b"<html>Please log in to this network</html>"
    with pytest.raises(RunError, match="holds no MD5 sum"):
        public.fetch("movielens-100k", tmp_path, site.base)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({**FILES_100K, "u.data": b"one line\n"}, "u.data has 1 lines instead of 2"),
        ({**FILES_100K, "u.data": b"one\ntwo\nthree"}, "u.data has 3 lines instead of 2"),
        ({"u.data": FILES_100K["u.data"]}, "holds no ml-100k/u.item"),
    ],
)
def test_wrong_members_make_no_folder(files: dict[str, bytes], message: str, site: Site, tmp_path: Path) -> None:
    site.publish("ml-100k.zip", zipped("ml-100k", files))
    with pytest.raises(DataError, match=message):
        public.fetch("movielens-100k", tmp_path, site.base)
    assert os.listdir(tmp_path) == ["ml-100k.zip"]


def test_file_put_there_by_hand_needs_no_network(site: Site, tmp_path: Path) -> None:
    (tmp_path / "ml-100k.zip").write_bytes(zipped("ml-100k", FILES_100K))
    folder = public.fetch("movielens-100k", tmp_path, site.base)
    assert site.asked == []
    assert sorted(os.listdir(folder)) == ["items.tsv", "u.data", "u.genre", "u.item", "u.user", "users.tsv"]


def test_damaged_file_put_there_by_hand(site: Site, tmp_path: Path) -> None:
    # Flipped inside the first member's data, behind its 30-byte header and its name.
    body = bytearray(zipped("ml-100k", FILES_100K))
    body[30 + len("ml-100k/u.data") + 5] ^= 0xFF
    for damaged in (bytes(body), bytes(body[:100])):
        (tmp_path / "ml-100k.zip").write_bytes(damaged)
        with pytest.raises(DataError, match=r"ml-100k\.zip: is no whole zip file"):
            public.fetch("movielens-100k", tmp_path, site.base)
        assert os.listdir(tmp_path) == ["ml-100k.zip"]


def test_unknown_name_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"netflix: no such data set; known are movielens-100k, "):
        public.fetch("netflix", tmp_path)


def test_no_network_is_one_line_and_exit_1(tmp_path: Path) -> None:
    with socket.socket() as unused:  # bound but not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        mirror = f"http://127.0.0.1:{unused.getsockname()[1]}/movielens"
        command = [sys.executable, "-m", "recsys_spark.log.public", "movielens-1m", "--mirror", mirror]
        environment = {**os.environ, "no_proxy": "127.0.0.1", "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"{mirror}/ml-1m.zip: cannot be downloaded (" in done.stderr
    assert "put the file at data/ml-1m.zip" in done.stderr
    assert os.listdir(tmp_path / "data") == []
