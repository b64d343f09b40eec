"""An image archive: OCI layout and docker archive in one file, layers as they are (not compressed)."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hack.images.layer import Layer

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_EPOCH = "1970-01-01T00:00:00Z"
_OCI = "application/vnd.oci.image"


@dataclass(frozen=True, slots=True)
class Config:
    """What a container of the image starts with."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    user: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def write_archive(target: Path, name: str, config: Config, layers: Sequence[Layer]) -> str:
    """Write the archive, and return the image's digest (of its manifest)."""
    config_blob = _config(config, layers)
    manifest_blob = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor(f"{_OCI}.config.v1+json", config_blob),
            "layers": [
                {"mediaType": f"{_OCI}.layer.v1.tar", "digest": f"sha256:{layer.digest}", "size": layer.size}
                for layer in layers
            ],
        }
    )
    entry = _descriptor(f"{_OCI}.manifest.v1+json", manifest_blob)
    tag = name.rpartition(":")[2]
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
    index = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.index.v1+json",
        "manifests": [entry | {"annotations": annotations}],
    }
    docker = [
        {
            "Config": f"blobs/sha256/{_sha256(config_blob)}",
            "RepoTags": [name],
            "Layers": [f"blobs/sha256/{layer.digest}" for layer in layers],
        }
    ]
    unfinished = target.with_suffix(".new")
    with tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json(index))
        _add(tar, "manifest.json", _json(docker))
        for blob in (config_blob, manifest_blob):
            _add(tar, f"blobs/sha256/{_sha256(blob)}", blob)
        for layer in {layer.digest: layer for layer in layers}.values():
            _add(tar, f"blobs/sha256/{layer.digest}", layer.path)
    unfinished.rename(target)
    return f"sha256:{_sha256(manifest_blob)}"


def _config(config: Config, layers: Sequence[Layer]) -> bytes:
    started = {
        "Env": [f"{key}={value}" for key, value in config.environment.items()],
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.command),
        "User": config.user,
        "WorkingDir": "/",
    }
    return _json(
        {
            "created": _EPOCH,
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {key: value for key, value in started.items() if value},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
            "history": [{"created": _EPOCH}] * len(layers),
        }
    )


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{_sha256(blob)}", "size": len(blob)}


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o644
    if isinstance(content, bytes):
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
        return
    entry.size = content.stat().st_size
    with open(content, "rb") as data:
        tar.addfile(entry, data)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
