"""Velero on a control plane: its kinds, its manifest as `velero install` prints it, its server as a process.

    with …, SeaweedServer(folder) as s3, VeleroServer(plane, s3) as velero:
        velero.cli("backup", "create", "one", "--include-namespaces=shop", "--snapshot-move-data", "--wait")

The server and the command are unmodified. The Deployment of the manifest stays without replicas: there are no images to
run it from. The DaemonSet `node-agent` is there, and simulated nodes say that its pods run; what works in their place
is up to the test.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

from agent.testing.control_plane import ControlPlane, Json, Manifest, clean_environment
from agent.testing.control_plane_process import ChildProgram, tool
from agent.testing.s3_server import SeaweedServer, free_ports

NAMESPACE: Final = "velero"
BUCKET: Final = "velero"
PASSWORD: Final = "static-passw0rd"  # noqa: S105 - Velero's own, for every repository
_PLUGIN = "velero-plugin-for-aws"


class VeleroServer:
    """Velero in a namespace, with one storage location, `default`, in a bucket of its own of an S3 server."""

    def __init__(
        self,
        plane: ControlPlane,
        s3: SeaweedServer,
        *,
        namespace: str = NAMESPACE,
        image: str = "lighterage.test/agent:1",
    ) -> None:
        self.namespace = namespace
        self.bucket = BUCKET if namespace == NAMESPACE else namespace
        self.folder = plane.folder / namespace
        self.image = image
        """What the DaemonSet runs."""
        self.credentials = self.folder / "cloud-credentials"
        self._plane = plane
        self._s3 = s3
        self._stack = ExitStack()
        self.server: ChildProgram

    def __enter__(self) -> Self:
        self.folder.mkdir()
        with ExitStack() as stack:
            self._s3.create_bucket(self.bucket)
            self.credentials.write_text(
                f"[default]\naws_access_key_id={self._s3.access_key}\naws_secret_access_key={self._s3.secret_key}\n"
            )
            self.credentials.chmod(0o600)
            self._install()
            plugins = self.folder / "plugins"
            plugins.mkdir()
            (plugins / _PLUGIN).symlink_to(tool(_PLUGIN))
            self.server = ChildProgram(
                "velero", self._command(plugins), self.folder, environment=self.environment, family=True
            )
            stack.callback(self.server.stop)
            self.server.start()
            self.wait_available()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a pod of Velero's namespace has: credentials, and folders of its own."""
        own = {
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "VELERO_NAMESPACE": self.namespace,
            "VELERO_SCRATCH_DIR": str(self.folder / "scratch"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials),
        }
        return clean_environment() | own

    def cli(self, *arguments: str) -> str:
        """What the `velero` command prints. Raises `RuntimeError` with what it complained about."""
        done = self.try_cli(*arguments)
        if done.returncode:
            raise RuntimeError(f"velero {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def try_cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `velero` command, whatever comes of it."""
        where = [f"--kubeconfig={self._plane.kubeconfig}", f"--namespace={self.namespace}"]
        command = [str(tool("velero")), *arguments, *where]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment)

    def wait_available(self, seconds: float = 60.0) -> None:
        """Wait until the server works and has its storage location validated."""
        self.server.wait_until("has its location", self._is_available, seconds=seconds)

    def phase(self, kind: str, name: str) -> str:
        """The phase of an object of Velero's."""
        return self._plane.kubectl("get", kind, name, f"--namespace={self.namespace}", "-o=jsonpath={.status.phase}")

    def _is_available(self) -> bool:
        get = [
            "get",
            "backupstoragelocation",
            "default",
            f"--namespace={self.namespace}",
            "-o=jsonpath={.status.phase}",
        ]
        return self._plane.try_kubectl(*get).stdout == "Available"

    def _install(self) -> None:
        """Apply the manifest that `velero install` makes."""
        location = f"region=us-east-1,s3ForcePathStyle=true,s3Url={self._s3.endpoint}"
        printed = self.cli(
            "install",
            "--dry-run",
            "-o=json",
            "--provider=aws",
            f"--plugins=velero/{_PLUGIN}:v1.14.2",
            f"--image={self.image}",
            f"--bucket={self.bucket}",
            f"--secret-file={self.credentials}",
            "--use-node-agent",
            "--use-volume-snapshots=false",
            "--features=EnableCSI",
            f"--backup-location-config={location}",
        )
        manifests = cast(list[Manifest], json.loads(printed)["items"])
        definitions = self.folder / "definitions.json"
        definitions.write_text(
            json.dumps({"apiVersion": "v1", "kind": "List", "items": [one for one in manifests if _is_definition(one)]})
        )
        self._plane.install_definitions(definitions)
        self._plane.apply(*(_without_replicas(one) for one in manifests if not _is_definition(one)))

    def _command(self, plugins: Path) -> list[str | os.PathLike[str]]:
        metrics, profiler = free_ports(2)
        return [
            tool("velero"),
            "server",
            f"--kubeconfig={self._plane.kubeconfig}",
            f"--namespace={self.namespace}",
            f"--plugin-dir={plugins}",
            f"--metrics-address=127.0.0.1:{metrics}",
            f"--profiler-address=127.0.0.1:{profiler}",
            "--features=EnableCSI",
            "--uploader-type=kopia",
            "--item-operation-sync-frequency=1s",
            "--store-validation-frequency=10s",
            "--backup-sync-period=5s",
            "--client-qps=200",
            "--client-burst=300",
        ]


def _is_definition(manifest: Manifest) -> bool:
    return manifest["kind"] == "CustomResourceDefinition"


def _without_replicas(manifest: Manifest) -> Manifest:
    if manifest["kind"] != "Deployment":
        return manifest
    spec = cast(dict[str, Json], manifest["spec"])
    return {**manifest, "spec": {**spec, "replicas": 0}}
