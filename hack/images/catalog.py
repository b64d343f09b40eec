"""The images by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.images.archive import Config, write_archive
from hack.images.layer import Recipe, make_layer
from hack.images.program_layers import busybox, linked_program, programs, system_files
from hack.images.python_layers import interpreter, project, requirements
from hack.node.layout import Layout
from hack.node.tools import CSI_SIDE_CARS, nginx, seaweedfs, tool

AGENT = "docker.io/lighterage/lighterage:dev"
VELERO = "docker.io/velero/velero:v1.18.2"
PLUGIN = "docker.io/velero/velero-plugin-for-aws:v1.14.2"
WORKLOAD = "lighterage.test/workload:1"
PAUSE = "lighterage.test/pause:1"

_PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"}


@dataclass(frozen=True, slots=True)
class Image:
    """An image to make."""

    name: str
    config: Config
    layers: Callable[[], Sequence[Recipe]]


IMAGES = {
    "agent": Image(
        AGENT,
        Config(entrypoint=["lighter"], environment=_PATH | {"PYTHONDONTWRITEBYTECODE": "1"}),
        lambda: [system_files(), interpreter(), requirements(), project()],
    ),
    "workload": Image(
        WORKLOAD,
        Config(command=["sh"], environment=_PATH | {"PYTHONDONTWRITEBYTECODE": "1"}),
        lambda: [system_files(), busybox(), interpreter(), linked_program("/usr/sbin/nginx", nginx())],
    ),
    "pause": Image(
        PAUSE,
        Config(entrypoint=["/bin/busybox", "tail", "-f", "/dev/null"]),
        lambda: [programs("pause", {"/bin/busybox": Path(shutil.which("busybox") or "/bin/busybox")})],
    ),
    "velero": Image(
        VELERO,
        Config(user="65532:65532", environment=_PATH | {"HOME": "/home/velero"}),
        lambda: [
            system_files(),
            programs(
                "velero",
                {"/velero": tool("velero"), "/velero-restore-helper": tool("velero-restore-helper")},
                {"/home/velero": 0o777, "/plugins": 0o755},
            ),
        ],
    ),
    "velero-plugin-for-aws": Image(
        PLUGIN,
        Config(
            entrypoint=["/bin/busybox", "cp", "/plugins/velero-plugin-for-aws", "/target/velero-plugin-for-aws"],
            user="65532:65532",
        ),
        lambda: [
            busybox(),
            programs(
                "velero-plugin-for-aws",
                {"/plugins/velero-plugin-for-aws": tool("velero-plugin-for-aws")},
                {"/target": 0o777},
            ),
        ],
    ),
}

KIND_IMAGES = {
    "csi": Image(
        "lighterage.test/csi:1",
        Config(environment=_PATH),
        lambda: [
            busybox(),
            programs("csi", {f"/{name}": tool(name) for name in (*CSI_SIDE_CARS, "csi-test-driver")}),
        ],
    ),
    "s3": Image(
        "lighterage.test/s3:1",
        Config(),
        lambda: [system_files(), programs("s3", {"/weed": seaweedfs()})],
    ),
}
"""What `hack/cluster` runs as plain processes and `hack/kind` as pods."""


@dataclass(frozen=True, slots=True)
class Built:
    """An image that is made: its name, digest, size in bytes, and archive."""

    name: str
    digest: str
    size: int
    archive: Path


def build(short_name: str, layout: Layout) -> Built:
    """The archive of an image, made only when something that goes into it has changed."""
    image = (IMAGES | KIND_IMAGES)[short_name]
    layers = [make_layer(recipe, layout.images / "layers") for recipe in image.layers()]
    archive = layout.images / f"{short_name}.tar"
    digest_file = layout.images / f"{short_name}.digest"
    inputs = " ".join([image.name, repr(image.config), *(layer.digest for layer in layers)])
    known = digest_file.read_text().splitlines() if archive.exists() and digest_file.exists() else ["", ""]
    if known[0] != inputs:
        digest = write_archive(archive, image.name, image.config, layers)
        digest_file.write_text(f"{inputs}\n{digest}\n")
        known = [inputs, digest]
    return Built(image.name, known[1], sum(layer.size for layer in layers), archive)
