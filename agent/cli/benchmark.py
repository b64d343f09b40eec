"""`lighter benchmark`: how fast each algorithm and the store are here, so that a person can choose."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import click
import msgspec

from agent.base.errors import AlgorithmUnsupported, UsageError
from agent.cli.connection import Connection, as_url, remembered
from agent.cli.console import json_result, note, print_json, print_table, say, size_text
from agent.cli.options import size_value
from agent.cli.run import run

if TYPE_CHECKING:
    from agent.storage.base import BlobStorage

KINDS = ("splitters", "hashes", "ciphers", "compressors", "store")
_CONTENT = 4 << 20
_BLOB = 20 << 20
_SMALL_BLOBS = 50
_SMALL_BLOB = 4 << 10
_WORDS = 2_000
_PREFIX = "benchmark"


class AlgorithmSpeed(msgspec.Struct, frozen=True, rename="camel"):
    """One algorithm on one thread."""

    name: str
    bytes_per_second: int
    default: bool


class CompressorSpeed(msgspec.Struct, frozen=True, rename="camel"):
    """One compressor on one thread, on text."""

    name: str
    bytes_per_second: Annotated[int, msgspec.Meta(description="of what goes in")]
    decompressed_per_second: Annotated[int, msgspec.Meta(description="of what comes out again")]
    ratio: Annotated[float, msgspec.Meta(description="size after divided by size before")]


class StoreSpeed(msgspec.Struct, frozen=True, rename="camel"):
    """One operation on the store."""

    operation: str
    requests: int
    bytes: int
    seconds: float
    requests_per_second: float
    bytes_per_second: int


class BenchmarkResult(msgspec.Struct, frozen=True):
    """What was measured; lists are empty for what was not asked for."""

    splitters: list[AlgorithmSpeed]
    hashes: list[AlgorithmSpeed]
    ciphers: list[AlgorithmSpeed]
    compressors: list[CompressorSpeed]
    store: list[StoreSpeed]


@click.command(
    epilog="\b\nExamples:\n  lighter benchmark\n  lighter benchmark hashes ciphers --seconds 2\n"
    "  lighter benchmark store --repo 's3://bucket/test/?region=eu-central-1' --store-bytes 500MB"
)
@json_result(BenchmarkResult)
@click.argument("kinds", metavar="[splitters|hashes|ciphers|compressors|store]...", type=click.Choice(KINDS), nargs=-1)
@click.option("--seconds", type=click.FloatRange(0.01, 60), default=0.3, show_default=True, help="For each algorithm.")
@click.option("--repo", "-r", envvar="LIGHTER_REPO", metavar="URL", help="The store to measure; needs no repository.")
@click.option(
    "--store-bytes", default="64MiB", show_default=True, callback=size_value, metavar="SIZE", help="So much is sent."
)
@click.option("--requests", type=click.IntRange(1, 256), default=16, show_default=True, help="Store requests at once.")
def benchmark(
    as_json: bool, kinds: tuple[str, ...], seconds: float, repo: str | None, store_bytes: int, requests: int
) -> None:
    """Measure splitters, hashes, ciphers and compressors, and with --repo the store.

    Algorithms run on one thread and scale with processors. In the store some blobs are written, read and deleted;
    what is there is not touched.
    """
    chosen = kinds or (KINDS if repo else KINDS[:-1])
    if "store" in chosen and not repo:
        known = remembered()
        if known is None:
            raise UsageError("no store given", hint="use --repo URL")
        repo = known.repo
    result = BenchmarkResult(
        splitters=_splitters(seconds) if "splitters" in chosen else [],
        hashes=_hashes(seconds) if "hashes" in chosen else [],
        ciphers=_ciphers(seconds) if "ciphers" in chosen else [],
        compressors=_compressors(seconds) if "compressors" in chosen else [],
        store=_store(repo, store_bytes, requests) if repo and "store" in chosen else [],
    )
    if as_json:
        print_json(result)
    else:
        _print(result)


def _rate(work: Callable[[], object], size: int, seconds: float) -> int:
    """Bytes per second of `work`, which handles `size` bytes, repeated for so many seconds."""
    work()
    rounds = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not rounds:
        work()
        rounds += 1
    return int(rounds * size / elapsed)


def _random_data() -> bytes:
    return random.Random(1).randbytes(_CONTENT)  # noqa: S311 - the same data every time, no secret


def _text_data() -> bytes:
    source = random.Random(2)  # noqa: S311
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 10))) for _ in range(_WORDS)]
    lines = (f"{n:08d} {' '.join(source.choices(words, k=8))}" for n in range(_CONTENT // 50))
    return "\n".join(lines).encode()[:_CONTENT]


def _sorted(speeds: Iterable[AlgorithmSpeed]) -> list[AlgorithmSpeed]:
    return sorted(speeds, key=lambda speed: -speed.bytes_per_second)


def _splitters(seconds: float) -> list[AlgorithmSpeed]:
    from agent.repository.splitter import DEFAULT_SPLITTER, SPLITTER_NAMES, Splitter, new_splitter

    data = memoryview(_random_data() * 4)

    def cut(splitter: Splitter) -> None:
        at = 0
        while at < len(data):
            found = splitter.find_cut(data[at:], len(data) - at, 0)
            if not found:
                return
            at += found

    names = [name for name in SPLITTER_NAMES if not name.startswith("FIXED")]
    return _sorted(
        AlgorithmSpeed(name, _rate(partial(cut, new_splitter(name)), len(data), seconds), name == DEFAULT_SPLITTER)
        for name in names
    )


def _hashes(seconds: float) -> list[AlgorithmSpeed]:
    from agent.repository.hashing import DEFAULT_HASH, HASH_NAMES, new_hasher

    data = _random_data()
    speeds = []
    for name in HASH_NAMES:
        hasher = new_hasher(name, bytes(32))
        rate = _rate(partial(hasher, data), len(data), seconds)
        speeds.append(AlgorithmSpeed(name, rate, name == DEFAULT_HASH))
    return _sorted(speeds)


def _ciphers(seconds: float) -> list[AlgorithmSpeed]:
    from agent.repository.encryption import DEFAULT_ENCRYPTION, ENCRYPTION_NAMES, IV_SIZE, ContentCipher

    data, iv = _random_data(), bytes(IV_SIZE)
    speeds = []
    for name in ENCRYPTION_NAMES:
        cipher = ContentCipher(name, bytes(32))
        rate = _rate(partial(cipher.seal, data, iv), len(data), seconds)
        speeds.append(AlgorithmSpeed(name, rate, name == DEFAULT_ENCRYPTION))
    return _sorted(speeds)


def _compressors(seconds: float) -> list[CompressorSpeed]:
    from agent.repository.compression import COMPRESSOR_NAMES, compress, decompress, header_id_of

    data = _text_data()
    speeds = []
    for name in COMPRESSOR_NAMES:
        header = header_id_of(name)
        try:
            packed = compress(header, data)
        except AlgorithmUnsupported:
            continue  # can only be read
        speeds.append(
            CompressorSpeed(
                name,
                _rate(partial(compress, header, data), len(data), seconds),
                _rate(partial(decompress, packed, len(data)), len(data), seconds),
                round(len(packed) / len(data), 4),
            )
        )
    return sorted(speeds, key=lambda speed: -speed.bytes_per_second)


def _store(url: str, size: int, requests: int) -> list[StoreSpeed]:
    connection = Connection(
        url=as_url(url),
        password_file="",
        cache_dir=None,
        cache_limit=0,
        upload_limit=0,
        download_limit=0,
        parallel_requests=requests,
    )

    async def work() -> list[StoreSpeed]:
        async with connection.storage() as storage:
            return await _measure_store(storage, size)

    return run(work(), network=connection.network)


async def _measure_store(storage: BlobStorage, size: int) -> list[StoreSpeed]:
    import asyncio

    from agent.storage.base import BlobId

    token = os.urandom(8).hex()
    big = [BlobId(f"{_PREFIX}-{token}-big-{n}") for n in range(max(1, size // _BLOB))]
    small = [BlobId(f"{_PREFIX}-{token}-small-{n}") for n in range(_SMALL_BLOBS)]
    blob = os.urandom(min(_BLOB, max(size, 1)))
    speeds: list[StoreSpeed] = []

    async def measured(
        operation: str, work: Sequence[Coroutine[object, object, object]], count: int, length: int
    ) -> None:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for one in work:
                tasks.create_task(one)
        elapsed = time.perf_counter() - started
        speeds.append(
            StoreSpeed(operation, count, length, round(elapsed, 4), round(count / elapsed, 1), int(length / elapsed))
        )

    try:
        whole, little = len(big) * len(blob), len(small) * _SMALL_BLOB
        await measured("put large", [storage.put(name, [blob]) for name in big], len(big), whole)
        await measured("put small", [storage.put(name, [blob[:_SMALL_BLOB]]) for name in small], len(small), little)
        await measured("get large", [storage.get(name) for name in big], len(big), whole)
        await measured("get small", [storage.get(name) for name in small], len(small), little)
        await measured("list", [_list(storage, f"{_PREFIX}-{token}")], 1, 0)
        await measured("delete", [storage.delete([*big, *small])], len(big) + len(small), 0)
    except BaseException:
        await asyncio.shield(storage.delete([*big, *small]))
        raise
    return speeds


async def _list(storage: BlobStorage, prefix: str) -> int:
    return len([blob async for blob in storage.list(prefix)])


def _speed(bytes_per_second: float) -> str:
    return f"{size_text(bytes_per_second)}/s"


def _print(result: BenchmarkResult) -> None:
    for title, speeds in (("SPLITTER", result.splitters), ("HASH", result.hashes), ("CIPHER", result.ciphers)):
        if speeds:
            rows = [(s.name, _speed(s.bytes_per_second), "default" if s.default else "") for s in speeds]
            print_table((title, "SPEED", ""), rows, right=(1,))
            say()
    if result.splitters:
        note("Splitters named FIXED-<size> cost nothing, and find nothing again after an insertion.\n")
    if result.compressors:
        compressed = [
            (
                c.name,
                f"{size_text(c.bytes_per_second)}/s",
                f"{size_text(c.decompressed_per_second)}/s",
                f"{c.ratio:.1%}",
            )
            for c in result.compressors
        ]
        print_table(("COMPRESSOR", "SPEED", "BACK", "SIZE"), compressed, right=(1, 2, 3))
        say()
    if result.store:
        stored = [
            (
                s.operation,
                f"{s.requests:,}",
                f"{s.requests_per_second:,.0f}/s",
                _speed(s.bytes_per_second) if s.bytes else "",
            )
            for s in result.store
        ]
        print_table(("STORE", "REQUESTS", "RATE", "SPEED"), stored, right=(1, 2, 3))
