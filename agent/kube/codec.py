"""Objects from and to JSON values, and the difference of two views as a merge patch (RFC 7386).

Views are strict about types and tolerant of what they do not know. What is not known is never lost, since
nothing but the difference of two views is ever written.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar, cast

import msgspec

from agent.base.errors import KubeUnreadable
from agent.kube.meta import KubeObject, View

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"
JsonObject: TypeAlias = "dict[str, JsonValue]"

ObjectT = TypeVar("ObjectT", bound=KubeObject)
ViewT = TypeVar("ViewT", bound=View)


def decode(kind: type[ObjectT], value: JsonObject) -> ObjectT:
    """The typed view of an object; `KubeUnreadable` when a field that we know has another type or an unknown phase."""
    try:
        return msgspec.convert(_without_nulls(value), kind, strict=True)
    except msgspec.ValidationError as error:
        raise KubeUnreadable(
            f"cannot read the {kind.__name__} {_name_of(value)}: {error}",
            hint="the custom resource definitions are of a version that this release does not know",
        ) from error


def encode(view: View) -> JsonObject:
    """A view as a JSON object, defaults left out."""
    return cast(JsonObject, msgspec.json.decode(msgspec.json.encode(view)))


def merge_patch(before: ViewT, after: ViewT) -> JsonObject:
    """What has to be merged into an object seen as `before` so that it is seen as `after`; empty when they are equal.

    The resource version is not part of it: whoever sends the patch says if it is a precondition.
    """
    return _difference(encode(before), encode(after))


def apply_merge_patch(target: JsonObject, patch: JsonObject) -> JsonObject:
    """`target` with a merge patch applied (RFC 7386); both stay as they are."""
    merged = dict(target)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            below = merged.get(name)
            merged[name] = apply_merge_patch(below if isinstance(below, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def _difference(before: JsonObject, after: JsonObject) -> JsonObject:
    patch: JsonObject = {name: None for name in before if name not in after}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            below = _difference(old, value)
            if below:
                patch[name] = below
        elif name not in before or old != value:
            patch[name] = value
    return patch


def _without_nulls(value: JsonObject) -> JsonObject:
    """Go writes absent times, maps and lists as null; a view knows only present and absent."""
    return {
        name: _without_nulls(below) if isinstance(below, dict) else below
        for name, below in value.items()
        if below is not None
    }


def _name_of(value: JsonObject) -> str:
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return repr(name)
