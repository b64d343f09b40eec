"""The agent of a cluster that forbids host paths: user 65532, no capability, and it does all that is left to do."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kube.job import Phase
from agent.kube.names import DATA_UPLOAD_LABEL
from agent.kube.resource import PODS
from agent.kube.selector import Selector
from agent.movers.pod_protocol import JOB_ANNOTATION, RUN_COMMAND
from agent.testing.control_plane_process import ChildProgram
from agent.testing.control_plane_velero import NAMESPACE
from agent.testing.s3_server import free_ports
from tests.controlplane.agents import LIGHTER, STOCK_CONFIG, answers
from tests.controlplane.cluster import Cluster

NODE = "n1"
STANDARD = "pod-security.kubernetes.io/enforce"
"""Of Velero's namespace; Velero itself sets it to privileged."""
NOBODY = ["setpriv", "--pdeathsig=KILL", "--reuid=65532", "--regid=65532", "--clear-groups", "--no-new-privs"]
NOBODY += ["--inh-caps=-all", "--bounding-set=-all"]
"""What the kubelet makes of the manifest."""


class Nobody:
    """The user of the agent's pod, with the folders of the pod. `folder` can be entered by anybody."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "run" / "control.sock"
        folder.chmod(0o755)
        for empty in ("scratch", "tmp", "run"):  # as open as the kubelet makes an emptyDir
            (folder / empty).mkdir()
            (folder / empty).chmod(0o777)

    def command(self, *words: str | Path) -> list[str | Path]:
        """What runs this as the user, who finds the interpreter and our code where they are."""
        return ["unshare", "--mount", "bash", "-euc", self._opened(), "bash", *NOBODY, *words]

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60, check=False)

    def _opened(self) -> str:
        """Shell that leaves nothing but these two of the folders around them that are closed to others."""
        needed = [Path(sys.base_prefix), Path(__file__).resolve().parents[2]]
        closed = {around for path in needed for around in path.parents if not around.stat().st_mode & stat.S_IXOTH}
        inside = [path for path in needed if closed & {*path.parents}]
        kept = {path: self.folder / f"needed-{number}" for number, path in enumerate(inside)}
        lines = [f"mkdir -p {place}; mount --bind {path} {place}" for path, place in kept.items()]
        lines += [f"mount -t tmpfs -o mode=755 none {path}" for path in closed if not closed & {*path.parents}]
        lines += [f"mkdir -p {path}; mount --bind {place} {path}" for path, place in kept.items()]
        return "\n".join([*lines, 'exec "$@"'])


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are closed to others
        yield Nobody(Path(name))


def log_in(cluster: Cluster, folder: Path) -> Path:
    """The agent's kubeconfig and what it names, where everybody may read it."""
    config = json.loads(cluster.agents.kubeconfig.read_text())
    (server,) = (one["cluster"] for one in config["clusters"])
    authority = folder / "ca.crt"
    authority.write_bytes(Path(server["certificate-authority"]).read_bytes())
    server["certificate-authority"] = str(authority)
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


def agent(cluster: Cluster, nobody: Nobody, port: int) -> ChildProgram:
    folder = nobody.folder
    credentials = folder / "cloud"
    credentials.write_bytes(cluster.velero.credentials.read_bytes())
    command = nobody.command(
        LIGHTER,
        "agent",
        "run",
        f"--kubeconfig={log_in(cluster, folder)}",
        f"--metrics-address=127.0.0.1:{port}",
        f"--node-agent-configmap={STOCK_CONFIG}",
        f"--control-socket={nobody.socket}",
    )
    environment = {
        **cluster.velero.environment,
        "NODE_NAME": NODE,
        "HOME": "/",
        "TMPDIR": str(folder / "tmp"),
        "VELERO_SCRATCH_DIR": str(folder / "scratch"),
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
    }
    return ChildProgram("agent-of-nobody", command, folder, environment=environment)


@pytest.fixture
def program(cluster: Cluster, nobody: Nobody) -> Iterator[ChildProgram]:
    """The agent, the only one of the cluster; in a namespace that forbids what it does without."""
    cluster.agents.stop_all()
    here = {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}}}
    cluster.config(STOCK_CONFIG, {"loadConcurrency": {"globalConfig": 4}, "loadAffinity": [here]})
    cluster.plane.kubectl("label", "namespace", NAMESPACE, f"{STANDARD}=baseline", "--overwrite")
    port = free_ports(1)[0]
    program = agent(cluster, nobody, port)
    program.start()
    try:
        program.wait_until("is ready", lambda: answers(port, "/readyz"), seconds=60)
        yield program
    finally:
        program.stop()
        cluster.plane.kubectl("label", "namespace", NAMESPACE, f"{STANDARD}=privileged", "--overwrite")


def test_without_host_paths_an_agent_that_is_nobody_has_pods_move_the_data(
    cluster: Cluster, nobody: Nobody, program: ChildProgram
) -> None:
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{program.pid}/status").read_text().splitlines())
    assert status["Uid"].split() == ["65532"] * 4
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    asked = nobody.run(LIGHTER, "agent", "status", "--socket", nobody.socket)
    assert NODE in asked.stdout, asked.stderr

    namespace, _ = cluster.application()
    name = cluster.upload(namespace)
    cluster.wait_phase(name, Phase.IN_PROGRESS)
    of_upload = Selector(labels={DATA_UPLOAD_LABEL: name})
    (mover,) = cluster.objects(PODS, NAMESPACE, of_upload)
    assert mover.spec.containers[0].command == RUN_COMMAND
    assert mover.spec.security_context["runAsUser"] == 0
    cluster.eventually(
        "the pod is given its job",
        lambda: JOB_ANNOTATION in cluster.get(PODS, mover.metadata.name, NAMESPACE).metadata.annotations,
    )
    # The agent's own workers and their caches, which the control API uses.
    look = (LIGHTER, "agent", "ls", "--socket", nobody.socket, "--volume-namespace", namespace)
    cluster.eventually("the repository is listed", lambda: nobody.run(*look).returncode == 0)
    assert [path for path in (nobody.folder / "scratch").rglob("*") if path.is_file()]
    # Nothing runs in pods of these nodes; what becomes of the job is its agent's to say.
    cluster.plane.kubectl("delete", "pod", mover.metadata.name, f"--namespace={NAMESPACE}", "--wait=false")
    upload = cluster.wait_final(name)
    assert upload.status.phase is Phase.FAILED
    assert "pod" in upload.status.message
    cluster.assert_clean()
    assert "Permission denied" not in program.log.read_text()
    assert "Traceback" not in program.log.read_text()
