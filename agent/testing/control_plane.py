"""A real control plane on loopback: etcd, kube-apiserver, kube-controller-manager, without any node.

    with ControlPlane(folder) as plane:
        plane.kubectl("get", "namespaces")
        plane.api_server.kill()

What a fake cannot be held to is tried on this one: schemas, admission, garbage collection, the volume binder, watches
as they are. It takes seconds to start and knows no kubelet and no scheduler: see `simulated_node`. `control_plane_csi`
adds volumes and snapshots, `control_plane_velero` the server of Velero.

The programs come from `hack/tool`, etcd from PATH or `$KUBEBUILDER_ASSETS` (Debian: etcd-server).
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, cast

from agent.testing.control_plane_keys import Keys, write_kubeconfig
from agent.testing.control_plane_process import ChildProgram, tool
from agent.testing.s3_server import free_ports

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Manifest: TypeAlias = dict[str, Json]

_TOKEN_LIFE = "10h"  # noqa: S105
_DATA_PREFIX = "lighterage-etcd-"
_YOUNG_SECONDS = 60.0


class ControlPlane:
    """One control plane in a folder. Start it in the thread that lives as long as it has to.

    `node_grace` is how many seconds a node may be silent before it is NotReady.
    """

    def __init__(self, folder: str | os.PathLike[str], *, node_grace: int = 10) -> None:
        self.folder = Path(folder)
        self._node_grace = node_grace
        self._stack = ExitStack()
        self._context: ssl.SSLContext | None = None
        self._etcd_port = 0
        self.port = 0
        self.kubeconfig = self.folder / "admin.kubeconfig"
        """Of a user that may do anything."""
        self.keys: Keys
        self.etcd: ChildProgram
        self.api_server: ChildProgram
        self.controller_manager: ChildProgram

    @property
    def url(self) -> str:
        """Of the API server."""
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.keys = Keys(self.folder / "keys")
        self._etcd_port, peer, self.port, manager = free_ports(4)
        data = stack.enter_context(_memory_folder())
        self.etcd = self._program("etcd", _etcd_command(Path(data), self._etcd_port, peer))
        certificate, key = self.keys.issue("kube-apiserver")
        self.api_server = self._program(
            "kube-apiserver",
            [
                tool("kube-apiserver"),
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={self.port}",
                f"--tls-cert-file={certificate}",
                f"--tls-private-key-file={key}",
                f"--client-ca-file={self.keys.authority}",
                "--authorization-mode=Node,RBAC",
                "--allow-privileged",
                "--endpoint-reconciler-type=none",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={self.keys.service_accounts}",
                f"--service-account-signing-key-file={self.keys.service_accounts}",
                "--enable-priority-and-fairness=false",
                "--profiling=false",
            ],
        )
        self.user("admin", "system:masters", path=self.kubeconfig)
        kubeconfig = self.user("system:kube-controller-manager")
        self.controller_manager = self._program(
            "kube-controller-manager",
            [
                tool("kube-controller-manager"),
                f"--kubeconfig={kubeconfig}",
                f"--authentication-kubeconfig={kubeconfig}",
                f"--authorization-kubeconfig={kubeconfig}",
                "--bind-address=127.0.0.1",
                f"--secure-port={manager}",
                f"--cert-dir={self.folder}",
                f"--service-account-private-key-file={self.keys.service_accounts}",
                f"--root-ca-file={self.keys.authority}",
                "--use-service-account-credentials",
                "--leader-elect=false",
                "--pvclaimbinder-sync-period=1s",
                f"--node-monitor-grace-period={self._node_grace}s",
                "--node-monitor-period=1s",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
                f"--flex-volume-plugin-dir={self.folder}/flex",
            ],
        )
        for program in (self.etcd, self.api_server, self.controller_manager):
            stack.callback(program.stop)
            program.start()
            if program is self.api_server:
                self.wait_ready()
        self.controller_manager.wait_until("makes service accounts", lambda: self._has("serviceaccount", "default"))

    def _program(self, name: str, command: Sequence[str | os.PathLike[str]]) -> ChildProgram:
        return ChildProgram(name, command, self.folder)

    def user(self, name: str, *groups: str, path: Path | None = None) -> Path:
        """A kubeconfig for a client certificate with this name and these groups."""
        certificate, key = self.keys.issue(name, *groups)
        user = {"client-certificate": str(certificate), "client-key": str(key)}
        where = path or self.folder / f"{name.replace(':', '-')}.kubeconfig"
        return write_kubeconfig(where, self.url, self.keys.authority, user)

    def service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token of a service account that exists."""
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", f"--duration={_TOKEN_LIFE}").strip()
        path = self.folder / f"{namespace}-{name}.kubeconfig"
        return write_kubeconfig(path, self.url, self.keys.authority, {"token": token}, namespace)

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Wait until the API server serves requests, after `api_server.start()` too."""
        self.api_server.wait_until("is ready", self._is_ready, seconds=seconds)

    def _is_ready(self) -> bool:
        if self._context is None:
            certificate, key = self.keys.issue("probe", "system:masters")
            self._context = ssl.create_default_context(cafile=str(self.keys.authority))
            self._context.load_cert_chain(certificate, key)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self._context, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def outage(self, seconds: float) -> None:
        """Kill the API server, and have it back after so many seconds."""
        self.api_server.kill()
        time.sleep(seconds)
        self.api_server.start()
        self.wait_ready()

    def compact(self) -> None:
        """Make etcd forget every version but the newest."""
        header = cast(Manifest, self._ask_etcd("range", {"key": "AA=="})["header"])
        self._ask_etcd("compaction", {"revision": header["revision"], "physical": True})

    def _ask_etcd(self, what: str, body: Manifest) -> Manifest:
        connection = http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=10)
        try:
            connection.request("POST", f"/v3/kv/{what}", json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status != 200:
                raise RuntimeError(f"etcd refused {what}: {text}")
            return cast(Manifest, json.loads(text))
        finally:
            connection.close()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What `kubectl` prints, as admin. Raises `RuntimeError` with what it complained about."""
        done = self.try_kubectl(*arguments, stdin=stdin)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def try_kubectl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `kubectl` as admin, whatever comes of it."""
        command = [str(tool("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, env=clean_environment()
        )

    def apply(self, *manifests: Mapping[str, Json] | Path) -> None:
        """Create or change objects: given as they are, or in files."""
        objects = [manifest for manifest in manifests if not isinstance(manifest, Path)]
        for path in manifests:
            if isinstance(path, Path):
                self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
        if objects:
            listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
            self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=listed)

    def install_definitions(self, *files: Path) -> None:
        """Apply custom resource definitions and wait until their kinds are served."""
        self.apply(*files)
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")

    def _has(self, kind: str, name: str) -> bool:
        return self.try_kubectl("get", kind, name).returncode == 0


def clean_environment() -> dict[str, str]:
    """The environment without what leads to another cluster or through a proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if name != "KUBECONFIG" and not name.startswith("KUBERNETES_") and not name.lower().endswith("_proxy")
    }


def _etcd_command(data: Path, client: int, peer: int) -> list[str]:
    assets = Path(os.environ.get("KUBEBUILDER_ASSETS", "/nonexistent")) / "etcd"
    program = str(assets) if assets.exists() else shutil.which("etcd")
    if program is None:
        raise RuntimeError(
            "there is no etcd: run `hack/system-packages etcd-server`, or name a folder by KUBEBUILDER_ASSETS"
        )
    return [
        program,
        f"--data-dir={data}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        "--log-level=warn",
        "--logger=zap",
    ]


@contextmanager
def _memory_folder() -> Iterator[str]:
    """Each write to etcd is flushed: a disk that is busy with the tests' own data would slow all down.

    The folder is locked while it is in use, and those of test runs that were killed go with the next one.
    """
    memory = Path("/dev/shm")  # noqa: S108
    parent = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    for left in parent.glob(f"{_DATA_PREFIX}*"):
        with suppress(OSError), _locked(left):
            if time.time() - left.stat().st_mtime > _YOUNG_SECONDS:  # else it may just be about to be locked
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_DATA_PREFIX, dir=parent) as folder, _locked(Path(folder)):
        yield folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises `OSError` when somebody else has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
