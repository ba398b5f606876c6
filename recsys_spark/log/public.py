"""Public data sets for trying the recommender out: download, check, unpack.

`python -m recsys_spark.log.public movielens-1m` fetches the zip file to `data/`, compares it with the
MD5 sum that GroupLens publishes beside it, unpacks it aside, counts the lines of the files that the
configurations read, and only then moves the folder to its place. Whatever is in `data/NAME` is whole.

The data are GroupLens' own: their licence (the README in each folder) allows research use and asks
for a citation; it does not allow redistribution, which is why none of it is kept in this repository.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import re
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from recsys_spark.errors import ConfigError, DataError, RunError, UserError

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class PublicDataset:
    """A zip file that holds one folder."""

    folder: str
    """Name of the folder in the zip file, of the zip file without `.zip`, and of the folder in `data/`."""
    files: dict[str, int | None]
    """Each file that is read later, and its line count where the publisher states it (a header counts)."""


DATASETS = {
    "movielens-100k": PublicDataset("ml-100k", {"u.data": 100_000, "u.item": None}),
    "movielens-1m": PublicDataset("ml-1m", {"ratings.dat": 1_000_209, "movies.dat": None}),
    "movielens-32m": PublicDataset("ml-32m", {"ratings.csv": 32_000_205, "movies.csv": None}),
}


def fetch(name: str, data: Path, base: str = GROUPLENS) -> Path:
    """Bring a data set to `data/<folder>` and return that path; does nothing where it is already.

    A zip file put into `data/` by hand is taken in place of the download.

    Args:
        name: a key of `DATASETS`.
        data: folder of all data sets; made where missing.
        base: address of the folder that holds the zip files and their `.md5`.

    Raises:
        ConfigError: the name is unknown.
        RunError: no network, a cut-off download or one with the wrong sum; nothing is left behind.
        DataError: the zip file is damaged or does not hold what it should; no folder is made.
    """
    dataset = DATASETS.get(name)
    if dataset is None:
        raise ConfigError(f"{name}: no such data set; known are {', '.join(DATASETS)}")
    folder = data / dataset.folder
    if not folder.exists():
        data.mkdir(parents=True, exist_ok=True)
        archive = data / f"{dataset.folder}.zip"
        if not archive.exists():
            _download(f"{base}/{archive.name}", archive)
        _unpack(archive, dataset, folder)
    return folder


def _download(url: str, archive: Path) -> None:
    """Fetch to `<archive>.part` and rename once the sum is right."""
    part = archive.with_name(archive.name + ".part")
    try:
        with _open(f"{url}.md5") as answer:
            published = re.search(r"\b[0-9a-f]{32}\b", answer.read(10_000).decode("utf-8", "replace").lower())
        if published is None:
            raise RunError(f"{url}.md5: holds no MD5 sum; is something else answering in its place?")
        digest = _save(url, part)
        if digest != published[0]:
            raise RunError(f"{url}: the download has MD5 {digest}, published is {published[0]}; try again")
        part.replace(archive)
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__
        raise RunError(f"{url}: cannot be downloaded ({cause}); try again, or put the file at {archive}") from None
    finally:
        part.unlink(missing_ok=True)


def _save(url: str, part: Path) -> str:
    """Write the body of `url` to a file; return its MD5 sum."""
    digest = hashlib.md5(usedforsecurity=False)
    with _open(url) as answer, part.open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, desc=part.stem, unit="B", unit_scale=True, disable=None) as progress:
            while block := answer.read(1 << 20):
                file.write(block)
                digest.update(block)
                progress.update(len(block))
            written = file.tell()
    # A body that ends early reads like one that is over.
    if written < size:
        raise OSError(f"cut off after {written} of {size} bytes")
    return digest.hexdigest()


def _open(url: str) -> http.client.HTTPResponse:
    return urllib.request.urlopen(url, timeout=_TIMEOUT)


def _unpack(archive: Path, dataset: PublicDataset, folder: Path) -> None:
    """Unpack beside the folder, check, then rename: the folder is whole or missing."""
    with tempfile.TemporaryDirectory(prefix=f".{dataset.folder}-", dir=folder.parent) as aside:
        try:
            with zipfile.ZipFile(archive) as members:
                members.extractall(aside)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
            raise DataError(f"{archive}: is no whole zip file ({error}); remove it and run again") from None
        unpacked = Path(aside, dataset.folder)
        for file, expected in dataset.files.items():
            if not (unpacked / file).is_file():
                raise DataError(f"{archive}: holds no {dataset.folder}/{file}; remove it and run again")
            if expected is not None and (found := _count_lines(unpacked / file)) != expected:
                raise DataError(f"{archive}: {file} has {found} lines instead of {expected}; remove it and run again")
        if (unpacked / "u.item").exists():
            _write_items(unpacked)
        if (unpacked / "u.user").exists():
            _write_users(unpacked)
        unpacked.rename(folder)


def _count_lines(file: Path) -> int:
    """Count lines; a last one without a line end counts, too."""
    count, last = 0, b"\n"
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def _write_items(folder: Path) -> None:
    """Derive `items.tsv` from MovieLens 100k's `u.item`, which spreads the genres over 19 columns of 0 and 1.

    Columns: `item_id`, `movie_title` without the year, `release_year` (empty where unknown), `class`
    (the genres' names, separated by blanks). UTF-8, tabs, one header line.
    """
    genres = [
        name
        for line in (folder / "u.genre").read_text("latin-1").splitlines()
        if (name := line.partition("|")[0].strip())
    ]
    rows = ["item_id\tmovie_title\trelease_year\tclass"]
    for line in (folder / "u.item").read_text("latin-1").split("\n"):
        if line.strip():
            item_id, title, date, _, _, *flags = line.strip("\r").split("|")
            name, year = split_year(title)
            classes = " ".join(genre for genre, flag in zip(genres, flags, strict=False) if flag == "1")
            rows.append("\t".join([item_id, name, year or date[-4:], classes]))
    (folder / "items.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _write_users(folder: Path) -> None:
    """Write MovieLens 100k's `u.user` as `users.tsv`: `user_id`, `age`, `gender`, `occupation`, `zip_code`."""
    lines = (folder / "u.user").read_text("latin-1").splitlines()
    rows = ["user_id\tage\tgender\toccupation\tzip_code", *(line.replace("|", "\t") for line in lines if line.strip())]
    (folder / "users.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def split_year(title: str) -> tuple[str, str]:
    """Part a MovieLens title from the year in brackets at its end.

    >>> split_year("Toy Story (1995)")
    ('Toy Story', '1995')
    >>> split_year("unknown")
    ('unknown', '')
    """
    match = re.fullmatch(r"(.*?)\s*\((\d{4})\)\s*", title)
    return (match[1], match[2]) if match else (title.strip(), "")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recsys_spark.log.public", description="Fetch a public data set.")
    parser.add_argument("name", help=", ".join(DATASETS))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all data sets (default: data)")
    parser.add_argument("--mirror", default=GROUPLENS, help="address of a folder with the same zip and .md5 files")
    args = parser.parse_args(arguments)
    try:
        folder = fetch(args.name, args.data, args.mirror.rstrip("/"))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{args.name} is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
