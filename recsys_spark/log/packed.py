"""Compressed files of the raw log: which of them Spark reads by itself, and the others unpacked beside them.

| ending | read by |
|---|---|
| `.gz`, `.bz2` | Spark, with codecs of Java |
| `.zst`, `.zstd`, `.lz4`, `.snappy` (frames, or Hadoop's blocks), `.deflate`, `.xz` | `unpack`, in Spark tasks |

Spark's codecs for the second kind need native libraries that its Python package does not bring, or know
only one of a format's two forms. A file is streamed in blocks, so its size does not matter.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import itertools
import lzma
import os
import uuid
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyspark.sql import SparkSession

from recsys_spark.errors import DataError
from recsys_spark.log.raw import WHOLE, Batch

_UNPACKED = (".zst", ".zstd", ".lz4", ".snappy", ".deflate", ".xz")
_BLOCK = 1 << 16
_SNAPPY_FRAMES = b"\xff\x06\x00\x00sNaPpY"  # the identifier that a framed stream starts with
_MARK = b"\xef\xbb\xbf"  # what some programs put before UTF-8


def unpack(spark: SparkSession, batches: list[Batch], scratch: Path) -> dict[str, list[Path]]:
    """Return each batch's files in a form that Spark reads: as they lie, or unpacked below `scratch`.

    Raises:
        DataError: a file is damaged or cut off.
    """
    files: dict[str, list[Path]] = {}
    jobs: list[tuple[Path, Path]] = []
    for batch in batches:
        # the folder's name tells the reader the batch, as in the log
        folder = scratch / (batch.name if batch.name == WHOLE else f"date={batch.name}")
        files[batch.name] = []
        for number, file in enumerate(batch.files()):
            target = file
            if file.suffix in _UNPACKED:
                folder.mkdir(parents=True, exist_ok=True)
                target = folder / f"{number:06d}.txt"
                jobs.append((file, target))
            files[batch.name].append(target)
    if jobs:
        context = spark.sparkContext
        slices = min(len(jobs), 4 * context.defaultParallelism)
        for problem in context.parallelize(jobs, slices).map(_unpack).collect():
            if problem is not None:
                raise DataError(problem)
    return files


def _unpack(job: tuple[Path, Path]) -> str | None:
    """Unpack one file; return what is wrong with it, or None."""
    source, target = job
    aside = target.with_name(f".{uuid.uuid4().hex}")
    with open(aside, "wb") as out:
        try:
            for block in blocks(source):
                out.write(block)
        except DataError as error:
            return str(error)
    os.replace(aside, target)
    return None


def blocks(file: Path) -> Generator[bytes, None, None]:
    """Yield a file's bytes, unpacked, in blocks of any size.

    Raises:
        DataError: it is damaged or cut off.
    """
    try:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open(file, "rb"))
            start = stream.read(len(_SNAPPY_FRAMES))
            stream.seek(0)
            if file.suffix == ".snappy":
                yield from (_snappy_frames if start == _SNAPPY_FRAMES else _snappy_blocks)(stream)
            elif file.suffix == ".deflate":
                yield from _deflate(stream)
            else:
                source = stack.enter_context(_opened(file.suffix, stream))
                while block := source.read(_BLOCK):
                    yield block
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{file}: cannot be unpacked ({why}); deliver it again") from None


def first_lines(file: Path, count: int, longest: int) -> list[bytes]:
    """Return the first lines of a file, at most `count`, without their ends; up to one above `longest` bytes."""
    found: list[bytes] = []
    rest = b""
    with contextlib.closing(blocks(file)) as source:
        for block in source:
            *whole, rest = (rest + block).split(b"\n")
            found += whole
            if len(found) >= count or len(rest) > longest:
                break
        else:
            found += [rest] if rest else []
    if found:
        found[0] = found[0].removeprefix(_MARK)  # Spark, too, skips it
    return [line.removesuffix(b"\r") for line in itertools.takewhile(lambda x: len(x) <= longest, found[:count])]


def _opened(suffix: str, stream: BinaryIO) -> contextlib.AbstractContextManager[BinaryIO]:
    """Open a stream for reading what is packed in it."""
    if suffix == ".gz":
        return gzip.open(stream)  # type: ignore[return-value]
    if suffix == ".bz2":
        return bz2.open(stream)  # type: ignore[return-value]
    if suffix == ".xz":
        return lzma.open(stream)  # type: ignore[return-value]
    if suffix in (".zst", ".zstd"):
        return pa.CompressedInputStream(stream, "zstd")
    if suffix == ".lz4":
        return pa.CompressedInputStream(stream, "lz4")
    return contextlib.nullcontext(stream)


def _deflate(stream: BinaryIO) -> Iterator[bytes]:
    unpacker = zlib.decompressobj()
    while block := stream.read(_BLOCK):
        yield unpacker.decompress(block)
    yield unpacker.flush()
    if not unpacker.eof:
        raise EOFError("it ends early")


def _snappy_blocks(stream: BinaryIO) -> Iterator[bytes]:
    """Hadoop's form: blocks of (bytes unpacked, chunks of (bytes packed, packed) until that many are there)."""
    while head := stream.read(4):
        left = int.from_bytes(head, "big")
        while left > 0:
            block = _snappy(_exactly(stream, int.from_bytes(_exactly(stream, 4), "big")))
            left -= len(block)
            yield block


def _snappy_frames(stream: BinaryIO) -> Iterator[bytes]:
    """The framing format: chunks of (kind, 3 bytes of length, body); a body starts with a checksum of 4 bytes."""
    while head := stream.read(4):
        body = _exactly(stream, int.from_bytes(head[1:], "little"))
        if head[0] == 0:
            yield _snappy(body[4:])
        elif head[0] == 1:
            yield body[4:]
        elif head[0] < 0x80:
            raise ValueError(f"chunk of the unknown kind {head[0]}")


def _snappy(packed: bytes) -> bytes:
    """Unpack one raw block, which starts with its unpacked length: 7 bits a byte, lowest first."""
    length = shift = 0
    for byte in packed[:5]:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if length > 1 << 28:  # no writer makes such a block; a damaged one should not take the memory
        raise ValueError(f"a block of {length} bytes")
    return pa.Codec("snappy").decompress(packed, length, asbytes=True)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("it ends early")
    return data
