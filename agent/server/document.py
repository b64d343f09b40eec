"""A JSON document into a struct, with every mistake and each unknown key told at once.

msgspec stops at the first mistake; whoever edits a ConfigMap wants all of them. So structs, lists and maps are walked
here and msgspec converts what lies in them. As Go's decoder does, names match whatever their case, and null is absent.
"""

from __future__ import annotations

import types
from typing import Annotated, Final, TypeVar, Union, get_args, get_origin

import msgspec

_StructT = TypeVar("_StructT", bound=msgspec.Struct)


class _Bad:
    """What a value becomes that was a mistake."""


_BAD: Final = _Bad()


class Findings(msgspec.Struct):
    """What was noticed while a document was read, each with its path."""

    mistakes: list[str] = msgspec.field(default_factory=list)
    unknown: list[str] = msgspec.field(default_factory=list)


def read_document(shape: type[_StructT], text: str, found: Findings) -> _StructT:
    """The document as `shape`; what is wrong goes into `found` and takes its default."""
    try:
        value: object = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        found.mistakes.append(f"it is no JSON: {error}")
        return shape()
    if value is None:
        return shape()
    result = _struct(shape, value, "", found)
    return result if isinstance(result, shape) else shape()


def _read(kind: object, value: object, path: str, found: Findings) -> object:
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    origin, arguments = get_origin(bare), get_args(bare)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return _struct(bare, value, path, found)
    if origin is dict and isinstance(value, dict):
        below = {name: _read(arguments[1], one, f"{path}.{name}", found) for name, one in value.items()}
        return {name: one for name, one in below.items() if one is not _BAD}
    if origin is tuple and isinstance(value, list):
        items = [_read(arguments[0], one, f"{path}[{number}]", found) for number, one in enumerate(value)]
        return tuple(one for one in items if one is not _BAD)
    if origin in {Union, types.UnionType} and type(None) in arguments:
        (some,) = (one for one in arguments if one is not type(None))
        return _read(some, value, path, found)
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError) as error:
        found.mistakes.append(f"{path}: {error}")
        return _BAD


def _struct(shape: type[msgspec.Struct], value: object, path: str, found: Findings) -> msgspec.Struct | _Bad:
    if not isinstance(value, dict):
        found.mistakes.append(f"{path or 'the document'}: an object is expected")
        return _BAD
    fields = {one.encode_name.lower(): one for one in msgspec.structs.fields(shape)}
    read: dict[str, object] = {}
    for name, below in value.items():
        where = f"{path}.{name}" if path else name
        known = fields.get(name.lower())
        if known is None:
            found.unknown.append(where)
        elif below is not None and (result := _read(known.type, below, where, found)) is not _BAD:
            read[known.name] = result
    given = {name.lower() for name in value}
    missing = [one.encode_name for one in fields.values() if one.required and one.encode_name.lower() not in given]
    found.mistakes += [f"{path}.{name}: it is missing" for name in missing]
    try:
        return shape(**read)
    except TypeError:  # one that is required was a mistake, and is told
        return _BAD
