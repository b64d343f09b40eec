"""Write docs/configuration.md from the types of both ConfigMaps: `python -m hack.config_docs`.

A test compares the file with what this makes, so the reference cannot fall behind.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Union, get_args, get_origin

import msgspec

from agent.kube.volumes import LabelSelector
from agent.server.own_document import OwnDocument
from agent.server.stock_document import StockDocument

TARGET = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

_INTRO = """\
# Configuration of the agent

<!-- Made by `python -m hack.config_docs` from the types themselves; edit those. -->

What counts first: a flag, then a variable of the environment, then a ConfigMap, then the default. Flags are in
[cli.md](cli.md#lighter-agent-run).

Two ConfigMaps in Velero's namespace are read. Each has **exactly one data key**, of any name, whose value is one JSON
document. A ConfigMap with no key or two, with something else than JSON, or with a value of the wrong type keeps the
agent from starting, and the message names every mistake of both. Keys that are not known warn. What Velero's agent
ignores with a warning (an unknown priority class, a number of jobs below one, an invalid quantity in `podResources`) is
ignored with a warning. `lighter agent run --check` says what the agent would say.

**Changes count at once**, for jobs that begin after them; rates and the number of jobs at once also for those that run.
Only the memory of workers and the kind of lines in the log are fixed at the start. An event of the DaemonSet
`node-agent` says what changed. A change that is a mistake changes nothing: the configuration before stays in force, and
a warning event says why.
"""

_STOCK = """\
## Velero's: `--node-agent-configmap`

As Velero documents it, whatever its version. Without the flag there is none.
"""

_STOCK_EXAMPLE = """\
```json
{
  "loadConcurrency": {
    "globalConfig": 2,
    "perNodeConfig": [{"nodeSelector": {"matchLabels": {"disk": "fast"}}, "number": 6}]
  },
  "loadAffinity": [{"nodeSelector": {"matchLabels": {"role": "backup"}}}],
  "backupPVC": {"gold": {"storageClass": "scratch", "readOnly": true}}
}
```
"""

_OWN = """\
## Ours: `--lighterage-configmap`

On top of Velero's. It may be missing; its name is `lighterage-config` unless the flag says otherwise. An amount is a
number or a quantity of Kubernetes (`200Mi`, `1.5Gi`, `1k`).
"""

_OWN_EXAMPLE = """\
```json
{
  "limits": {"uploadBytesPerSecond": "200Mi", "memory": "4Gi"},
  "podVolumeTimeout": "4h",
  "logLevel": "debug"
}
```
"""


def render() -> str:
    """The whole document."""
    parts = [_INTRO, _STOCK, *_tables(StockDocument), _STOCK_EXAMPLE, _OWN, *_tables(OwnDocument), _OWN_EXAMPLE]
    return "\n".join(parts)


def examples() -> tuple[str, str]:
    """The JSON of both examples."""
    return _json_of(_STOCK_EXAMPLE), _json_of(_OWN_EXAMPLE)


def _json_of(example: str) -> str:
    return example.removeprefix("```json\n").removesuffix("```\n")


def _tables(document: type[msgspec.Struct]) -> Iterator[str]:
    rows = [f"| `{path}` | {kind} | {default} | {text} |" for path, kind, default, text in _rows(document, "")]
    yield "\n".join(["| key | type | default | |", "|---|---|---|---|", *rows, ""])


def _rows(struct: type[msgspec.Struct], path: str) -> Iterator[tuple[str, str, str, str]]:
    for field in msgspec.structs.fields(struct):
        where = f"{path}{field.encode_name}"
        kind, text = _split(field.type)
        below, suffix = _below(kind)
        yield where, _name(kind), _default(field, below), text.replace("|", "\\|")
        if below is not None:
            yield from _rows(below, where + suffix + ".")


def _split(kind: object) -> tuple[object, str]:
    if get_origin(kind) is not Annotated:
        return kind, ""
    bare, *metas = get_args(kind)
    return bare, next((meta.description or "" for meta in metas if isinstance(meta, msgspec.Meta)), "")


def _below(kind: object) -> tuple[type[msgspec.Struct] | None, str]:
    """The part that has keys of its own, and how its path goes on."""
    origin, arguments = get_origin(kind), get_args(kind)
    inner, suffix = kind, ""
    if origin is tuple:
        inner, suffix = arguments[0], "[]"
    elif origin is dict:
        inner, suffix = arguments[1], ".<name>"
    if isinstance(inner, type) and issubclass(inner, msgspec.Struct) and inner is not LabelSelector:
        return inner, suffix
    return None, ""


def _name(kind: object) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return f"list of {_name(arguments[0])}"
    if origin is dict:
        return f"object of {_name(arguments[1])}"
    if origin in {Union, types.UnionType}:
        some = [one for one in arguments if one is not type(None)]
        return "amount" if set(some) == {int, str} else " or ".join(_name(one) for one in some)
    assert isinstance(kind, type)
    if issubclass(kind, Enum):
        return " or ".join(f"`{one.value}`" for one in kind)
    if kind is LabelSelector:
        return "label selector"
    return "object" if issubclass(kind, msgspec.Struct) else kind.__name__.replace("str", "string")


def _default(field: msgspec.structs.FieldInfo, below: type[msgspec.Struct] | None) -> str:
    if field.required:
        return "required"
    if below is not None or field.default in (None, (), "") or field.default is msgspec.NODEFAULT:
        return ""
    value = field.default.value if isinstance(field.default, Enum) else field.default
    return f"`{msgspec.json.encode(value).decode()}`" if not isinstance(value, str) else f"`{value}`"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
