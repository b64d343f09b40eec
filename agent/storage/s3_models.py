"""botocore's data files at a price that a short command can pay: a `data_loader` component for its sessions.

The library's own loader walks the folders of all 400 services to learn that `s3` exists, keeps a megabyte of endpoints
for the few services that are needed, and the documentation of every shape. This one looks into one folder, parses with
a faster parser and drops what no request needs: documentation, and of S3 itself the operations that nobody asks for,
with all that only they describe.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from typing import Any

import msgspec
from botocore.loaders import Loader

_NEEDED = frozenset({"s3", "sts", "sso", "oidc", "portal.sso"})
"""Names in endpoints.json: the store, and where credentials may come from."""

_OPERATIONS = frozenset(
    {
        "AbortMultipartUpload",
        "CompleteMultipartUpload",
        "CreateMultipartUpload",
        "CreateSession",  # botocore's own, for directory buckets
        "DeleteObject",
        "DeleteObjects",
        "GetObject",
        "HeadBucket",  # botocore's own, to learn a bucket's region
        "HeadObject",
        "ListMultipartUploads",
        "ListObjectsV2",
        "PutObject",
        "UploadPart",
    }
)
"""Of S3, those that are asked for."""


class _Partition(msgspec.Struct):
    """A partition of endpoints.json; of its services only the needed ones are parsed."""

    services: dict[str, msgspec.Raw]


class _Endpoints(msgspec.Struct):
    partitions: list[msgspec.Raw]
    version: int


class LeanFiles:
    """botocore's file loader: `exists` and `load_file`, names without `.json` or `.json.gz`."""

    def exists(self, file_path: str) -> bool:
        """Whether there is such a file."""
        return os.path.isfile(file_path + ".json") or os.path.isfile(file_path + ".json.gz")

    def load_file(self, file_path: str) -> dict[str, Any] | None:
        """The parsed file, None when there is none."""
        data = _read(file_path)
        if data is None:
            return None
        if os.path.basename(file_path) == "endpoints":
            return _endpoints(data)
        if os.path.basename(file_path) == "service-2":
            model = _service(data)
            _drop_documentation(model)
            return model
        parsed: dict[str, Any] = msgspec.json.decode(data)
        return parsed


class LeanLoader(Loader):  # type: ignore[misc]  # untyped library
    """botocore's loader that knows a service by its folder."""

    FILE_LOADER_CLASS = LeanFiles

    def list_available_services(self, type_name: str) -> Sequence[str]:
        """Folders of the search path; whether one holds `type_name` is seen when it is opened."""
        return sorted({name for path in self.search_paths if os.path.isdir(path) for name in os.listdir(path)})


def _read(file_path: str) -> bytes | None:
    try:
        with open(file_path + ".json", "rb") as file:
            return file.read()
    except FileNotFoundError:
        pass
    try:
        with gzip.open(file_path + ".json.gz", "rb") as compressed:
            return compressed.read()
    except FileNotFoundError:
        return None


def _endpoints(data: bytes) -> dict[str, Any]:
    file = msgspec.json.decode(data, type=_Endpoints)
    partitions = []
    for raw in file.partitions:
        services = msgspec.json.decode(raw, type=_Partition).services
        partition = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        partition["services"] = msgspec.Raw(
            msgspec.json.encode({name: service for name, service in services.items() if name in _NEEDED})
        )
        partitions.append(msgspec.json.decode(msgspec.json.encode(partition)))
    return {"partitions": partitions, "version": file.version}


def _service(data: bytes) -> dict[str, Any]:
    """The model of a service; of S3 the needed operations and the shapes that are reached from them."""
    parts = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    metadata = msgspec.json.decode(parts.get("metadata", b"{}"))
    if metadata.get("serviceId") != "S3":
        whole: dict[str, Any] = msgspec.json.decode(data)
        return whole
    operations = msgspec.json.decode(parts.pop("operations"), type=dict[str, msgspec.Raw])
    shapes = msgspec.json.decode(parts.pop("shapes"), type=dict[str, msgspec.Raw])
    model: dict[str, Any] = {name: msgspec.json.decode(part) for name, part in parts.items()}
    model["operations"] = {name: msgspec.json.decode(operations[name]) for name in _OPERATIONS & operations.keys()}
    model["shapes"] = needed = {}
    todo: list[Any] = list(model["operations"].values())
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            name = node.get("shape")
            if isinstance(name, str) and name not in needed:
                needed[name] = msgspec.json.decode(shapes[name])
                todo.append(needed[name])
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
    return model


def _drop_documentation(model: dict[str, Any]) -> None:
    """Only help texts are called so; a member of that name is a dict and stays."""
    todo: list[Any] = [model]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if isinstance(node.get("documentation"), str):
                node["documentation"] = ""
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
