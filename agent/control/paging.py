"""Lists by pages: where a list goes on is in the token, so that nothing is kept between two requests.

A token holds the last key of its page. Objects that come and go between pages neither shift nor repeat others.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from agent.base.errors import UsageError

MOST = 1_000
_USUAL = 100
_MOST_TOKEN = 2_048

_T = TypeVar("_T")

PageKey = tuple[int, str, str]
_decoder: msgspec.msgpack.Decoder[PageKey] = msgspec.msgpack.Decoder(PageKey)


def page_size(asked: int) -> int:
    """How many a page has; `asked` 0 for the usual number. Raises `UsageError`."""
    if asked < 0:
        raise UsageError("a page_size is a number from 0")
    return min(asked or _USUAL, MOST)


def page(items: Iterable[_T], key: Callable[[_T], PageKey], size: int, token: str) -> tuple[list[_T], str]:
    """The page of `items` after `token`, by key, and the token of the next one. Raises `UsageError`."""
    after = decode_token(token) if token else None
    rest = sorted((item for item in items if after is None or key(item) > after), key=key)
    chosen = rest[:size]
    return chosen, encode_token(key(chosen[-1])) if len(rest) > size else ""


def encode_token(key: PageKey) -> str:
    """The token of the page behind `key`."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(key)).decode()


def decode_token(token: str) -> PageKey:
    """The key in a token. Raises `UsageError`."""
    try:
        if len(token) > _MOST_TOKEN:
            raise ValueError
        return _decoder.decode(base64.b64decode(token, altchars=b"-_", validate=True))
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        raise UsageError("this page_token is not from an earlier page", hint="begin without one") from None
