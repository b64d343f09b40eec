"""Seeded damage to bytes: what a bad disk, a bad peer or an attacker may hand to a parser."""

from __future__ import annotations

import random
import re

_NUMBER = re.compile(rb"-?\d+")
_NUMBERS = (b"-1", b"0", b"1e400", b"1.5", b"9223372036854775808", b"-9223372036854775809", b"9" * 5000, b"1e-7")
_TOKENS = (
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"true",
    b'"\\ud800"',
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\xff\xfe",
    b"\0",
    b",",
    b'"',
)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to three damages of `data`."""
    for _ in range(rng.randint(1, 3)):
        data = rng.choice((_flip, _flip, _cut, _splice, _zero, _insert, _number, _token))(rng, data)
    return data


def _place(rng: random.Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def _flip(rng: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 8) if damaged else 0):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)] if rng.random() < 0.7 else data[_place(rng, data) :]


def _splice(rng: random.Random, data: bytes) -> bytes:
    a, b, to = [*sorted((_place(rng, data), _place(rng, data))), _place(rng, data)]
    return data[:to] + data[a:b] + data[to:]


def _zero(rng: random.Random, data: bytes) -> bytes:
    a, b = sorted((_place(rng, data), _place(rng, data)))
    return data[:a] + bytes([rng.choice((0, 255))]) * (b - a) + data[b:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.randbytes(rng.randint(1, 40)) + data[at:]


def _number(rng: random.Random, data: bytes) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return _flip(rng, data)
    chosen = rng.choice(found)
    return data[: chosen.start()] + rng.choice(_NUMBERS) + data[chosen.end() :]


def _token(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice(_TOKENS) + data[at:]
