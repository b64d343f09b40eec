"""JSON exactly as Go's encoder writes it.

Contents and blobs are named by the hash of their bytes, and other clients compare what they would have written with
what is there, so our JSON has to be theirs to the byte (§7.3): compact, keys of structs in the order of their fields,
keys of maps sorted, `<`, `>`, `&`, U+2028 and U+2029 escaped. The format blob, session markers, manifests and logs are
written through here; directory entries are encoded natively with the same rules.
"""

from __future__ import annotations

import re
from typing import Protocol, TypeVar

import msgspec

from agent.base.errors import RepositoryError
from agent.storage.base import Buffer

_ENCODER = msgspec.json.Encoder(order="deterministic")
_ESCAPED = re.compile(rb"[<>&]|\xe2\x80[\xa8\xa9]")
_ESCAPES = {
    b"<": b"\\u003c",
    b">": b"\\u003e",
    b"&": b"\\u0026",
    b"\xe2\x80\xa8": b"\\u2028",
    b"\xe2\x80\xa9": b"\\u2029",
}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = b"\\ufffd"

T_co = TypeVar("T_co", covariant=True)


class Decoder(Protocol[T_co]):
    """What `decode` needs of a `msgspec.json.Decoder`."""

    def decode(self, buf: Buffer, /) -> T_co:
        """The value, or a `msgspec.DecodeError`."""
        ...


def encode(value: object) -> bytes:
    """`value` (structs, mappings, sequences, scalars, `msgspec.Raw`) as compact JSON without a newline.

    Mappings are sorted by key, structs keep the order of their fields. Text must be encodable as UTF-8; what came from
    the file system goes through `quote`.
    """
    return _ESCAPED.sub(lambda m: _ESCAPES[m[0]], _ENCODER.encode(value))


def encode_indented(value: object) -> bytes:
    """The same, indented by two spaces and ended by a newline, as the format blob is (§2.1)."""
    return msgspec.json.format(encode(value), indent=2) + b"\n"


def compact(raw: Buffer) -> bytes:
    """JSON text without white space between its tokens, escaped as `encode` does: what Go makes of a raw message."""
    return _ESCAPED.sub(lambda m: _ESCAPES[m[0]], msgspec.json.format(bytes(raw), indent=-1))


def quote(raw: bytes) -> bytes:
    r"""One string from bytes that may not be UTF-8: each bad byte becomes the six characters `\ufffd` (§14.13)."""
    text = raw.decode("utf-8", "surrogateescape")
    if not _LONE_SURROGATE.search(text):
        return encode(text)
    return b'"' + _REPLACEMENT.join(encode(part)[1:-1] for part in _LONE_SURROGATE.split(text)) + b'"'


def decode(decoder: Decoder[T_co], data: Buffer, what: str, error: type[RepositoryError]) -> T_co:
    """`data` parsed by `decoder`; anything wrong with it is raised as `error`, naming `what` it was."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise error(f"{what} is not the JSON it has to be: {cause}") from cause
    except RecursionError as cause:
        raise error(f"{what} is not the JSON it has to be: nested too deeply") from cause
