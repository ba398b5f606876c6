"""Lists in Redis: a key for each user under the version's name, and one key that names the version.

    NAME:DATASET:current             the version's name
    NAME:DATASET:VERSION:user:USER   {"items": […], "scores": […], "model": …, "run_date": …}
    NAME:DATASET:versions            sorted set of the versions that are whole, by the time of their switch

A reader asks for `current`, and then for the user's key under it. `current` is set when all keys stand, by one command.
Of two exports at a time one is refused, by a key that goes by itself should its export be killed.
"""

from __future__ import annotations

import itertools
import math
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

from recsys_spark.errors import RunError
from recsys_spark.export.lists import UserList, files_of, lists_of, outdated
from recsys_spark.warehouse import Version

_BATCH = 1_000
_LEASE_SECONDS = 600


def to_redis(version: Version, name: str, address: str, prefix: str, keep: int) -> dict[str, Any]:
    """Write the lists of a version and switch to it.

    Args:
        name: what the version is called there.
        prefix: NAME:DATASET.
        keep: how many versions stay.

    Raises:
        RunError: Redis does not answer, refuses, or another export is writing there.
    """
    import redis

    try:
        client = redis.Redis.from_url(
            address, password=os.environ.get("REDIS_PASSWORD"), socket_connect_timeout=5, decode_responses=True
        )
        return _export(client, version, name, prefix, keep)
    except redis.RedisError as error:
        raise RunError(f"export.redis {address}: {error}; start it, or mend the address") from error


def _export(client: Any, version: Version, name: str, prefix: str, keep: int) -> dict[str, Any]:
    versions, lock, mine = f"{prefix}:versions", f"{prefix}:writing", uuid.uuid4().hex
    if not client.set(lock, mine, nx=True, ex=_LEASE_SECONDS):
        raise RunError(f"export.redis: another export is writing {prefix}; wait for it to end")
    try:
        standing = client.zscore(versions, name) is not None
        users = 0
        if not standing:
            for batch in _batches(version):
                users += len(batch)
                with client.pipeline(transaction=False) as pipe:
                    for found in batch:
                        pipe.set(f"{prefix}:{name}:user:{found.user_id}", found.value())
                    pipe.expire(lock, _LEASE_SECONDS)
                    pipe.execute()
        with client.pipeline(transaction=True) as pipe:
            pipe.set(f"{prefix}:current", name)
            pipe.zadd(versions, {name: _turn(client, versions, name)})
            pipe.execute()
        there = client.zrange(versions, 0, -1)
        gone = [old for old in there if old in there[:-keep] or outdated(old, name)]
        for old in gone:
            client.zrem(versions, old)  # first, so that nobody switches back to what is half deleted
            _delete(client, f"{prefix}:{old}:user:*")
    finally:
        if client.get(lock) == mine:
            client.delete(lock)
    return {"where": f"{prefix}:{name}", "reused": standing, "users": users, "deleted": gone}


def _turn(client: Any, versions: str, name: str) -> float:
    """Return the time, later than that of every other version: one that is live must not pass for the oldest."""
    others = [at for other, at in client.zrange(versions, 0, -1, withscores=True) if other != name]
    return max(time.time(), *(math.nextafter(at, math.inf) for at in others), 0.0)


def _batches(version: Version) -> Iterator[list[UserList]]:
    lists = itertools.chain.from_iterable(lists_of(file) for file in files_of(version))
    while batch := list(itertools.islice(lists, _BATCH)):
        yield batch


def _delete(client: Any, pattern: str) -> None:
    escaped = pattern.replace("[", "\\[").replace("?", "\\?")
    keys = client.scan_iter(escaped, count=_BATCH)
    while batch := list(itertools.islice(keys, _BATCH)):
        client.unlink(*batch)
