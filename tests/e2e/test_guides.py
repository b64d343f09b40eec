"""What the guides and runbooks tell people to type on a cluster, typed: every block, in the order of its page.

Pages that only look are beside the other tests; those that change the agent have it to themselves, and put it back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from agent.testing.control_plane_keys import Keys
from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, Object
from tests.e2e.conftest import Comparison
from tests.e2e.direct import data_upload
from tests.e2e.guide import Guide, Seat, agent_pod, blocks_of
from tests.e2e.node_faults import NodeFaults
from tests.e2e.velero import MOVE, Velero
from tests.e2e.workload import Workload
from tests.shell_blocks import ON_THE_CLUSTER, ROOT, other_way

AGENT_DOWN: Final = "docs/runbooks/LighterageAgentDown.md"
ABSENT: Final = "docs/runbooks/LighterageAbsent.md"
LEFTOVERS: Final = "docs/runbooks/LighterageLeftoversReturn.md"
DISTURBING: Final = {
    *("docs/control-api.md", "docs/install.md", "docs/switching.md", "docs/traces.md"),
    *(AGENT_DOWN, ABSENT, LEFTOVERS),
}
PLACE: Final = f"--namespace={VELERO_NAMESPACE}"
OWN_CONFIGURATION: Final = "lighterage-config"
STOCK_CONFIGURATION: Final = "node-agent-config"


@pytest.fixture
def configured(cluster: Cluster) -> Iterator[None]:
    """Both ConfigMaps of an agent, which say nothing but what is so without them."""
    maps = {OWN_CONFIGURATION: "{}", STOCK_CONFIGURATION: '{"loadConcurrency": {"globalConfig": 1}}'}
    for name, text in maps.items():
        metadata = {"name": name, "namespace": VELERO_NAMESPACE}
        cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"config": text}})
    yield
    for name in maps:
        cluster.delete("ConfigMap", name, VELERO_NAMESPACE)


# ---- pages that look ----


@pytest.mark.usefixtures("configured")
def test_pages_that_only_look_are_run_as_they_stand(app: Workload, guide: Guide, velero: Velero) -> None:
    velero.backup(app.namespace, app.namespace, MOVE)
    (upload,) = velero.movements(backup=app.namespace)
    # Its pod cannot be scheduled: the claim is of a class that nobody has.
    failed = data_upload(app, "files", storage_class="lighterage.test-nowhere", turn="fails")
    failed.wait_for("Failed")
    variables = {"BACKUP": app.namespace, "UPLOAD": upload.name, "POD": agent_pod(app.cluster)}
    printed: dict[str, str] = {}
    wrong: list[str] = []
    for page in sorted(ON_THE_CLUSTER.keys() - DISTURBING):
        try:
            printed[page] = "".join(guide.run(page, block, **variables) for block in blocks_of(page))
        except AssertionError as error:
            wrong.append(str(error))
    # A command may end before `kubectl debug` listens to it: its pod has kept what it said.
    debugged = ""
    for name in (pod["metadata"]["name"] for pod in app.cluster.list("Pod", "default")):
        if name.startswith("node-debugger-"):
            debugged += app.cluster.kubectl("logs", name, "--namespace=default")
            app.cluster.delete("Pod", name, "default")
    assert not wrong, "\n\n".join(wrong)
    for name in ("LighterageExposeFailed", "LighterageJobFailed", "LighterageJobsFailing"):
        assert failed.name in printed[f"docs/runbooks/{name}.md"]
    assert upload.name in printed["docs/troubleshooting.md"].partition("Events:")[2]
    assert "/var/lib/kubelet/pods/" in printed["docs/runbooks/LighterageNoProgress.md"] + debugged


# ---- pages that change the agent ----


@pytest.mark.disturbing
@pytest.mark.usefixtures("configured")
def test_the_agent_is_installed_in_each_way_of_the_guide(guide: Guide, seat: Seat) -> None:
    page = "docs/install.md"
    image, manifests, chart, check, describe = blocks_of(page)
    seat.stock()
    guide.run(page, image)
    seat.ready()
    for way in (manifests, chart):
        guide.run(page, way)
        seat.ready()
        assert "fatal" not in guide.run(page, check)
        assert re.search(r"Image:\s+\S*lighterage", guide.run(page, describe))
        seat.clear()


@pytest.mark.disturbing
@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("way", [str, other_way], ids=["manifests", "chart"])
def test_over_back_and_off_as_the_guide_says(
    app: Workload, assert_equal: Comparison, guide: Guide, seat: Seat, velero: Velero, way: Callable[[str], str]
) -> None:
    page = "docs/switching.md"
    before, image, own, look, back, off, finalizers, left = blocks_of(page)
    variables = {"APP": app.namespace, "CONFIG_MAP": STOCK_CONFIGURATION}
    # The name of the guide's backup is the same each time.
    backup = f"after-{app.namespace}"
    look = look.replace("after-the-switch", backup)
    seat.stock()
    velero.backup(app.namespace, app.namespace, MOVE)
    app.shell("echo new >/data/files/new")
    content = app.content()
    guide.run(page, before)
    guide.run(page, image)
    seat.ready()
    guide.run(page, way(own), **variables)
    seat.ready()
    guide.run(page, look, **variables)
    velero.wait_for_backup(backup)
    (upload,) = velero.movements(backup=backup)
    assert upload.incremental_bytes == len("new\n"), "it continues the history of the stock agent"
    app.cluster.delete_namespaces([app.namespace])
    velero.restore(backup, backup)
    app.wait_until_running()
    assert_equal({"/data/files": content["/data/files"]}, app.content())

    guide.run(page, way(back))
    seat.ready()
    guide.run(page, image)
    seat.ready()
    if way is other_way:  # its release went with the way back
        guide.run(page, way(own), **variables)
        seat.ready()
    guide.run(page, way(off))
    guide.run(page, finalizers)
    assert "No resources found" in guide.run(page, left)


@pytest.mark.disturbing
def test_the_control_api_is_asked_in_each_way_of_its_guide(
    app: Workload, cluster: Cluster, faults: NodeFaults, guide: Guide, seat: Seat, tmp_path: Path
) -> None:
    del faults  # the socket is reached on the node
    page = "docs/control-api.md"
    inside, delegate, outside, grpcurl = blocks_of(page)
    keys = Keys(tmp_path / "keys", names=["node-1.example"])
    certificate, key = keys.issue("agent")
    seat.clear()
    cluster.kubectl("create", "secret", "tls", "control", f"--cert={certificate}", f"--key={key}", PLACE)
    cluster.kubectl("create", "serviceaccount", "operator", PLACE)
    (role,) = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    cluster.kubectl("create", "--filename=-", given=role)
    name = yaml.safe_load(role)["metadata"]["name"]
    cluster.kubectl("create", "rolebinding", name, f"--role={name}", "--serviceaccount=velero:operator", PLACE)
    container = "/spec/template/spec/containers/0"
    flags = ("--control-address=:8087", "--control-cert=/control/tls.crt", "--control-key=/control/tls.key")
    volume = {"name": "control", "secret": {"secretName": "control"}}
    mount = {"name": "control", "mountPath": "/control"}
    folder = guide.overlay(
        "listening",
        *({"op": "add", "path": f"{container}/args/-", "value": flag} for flag in flags),
        {"op": "add", "path": f"{container}/volumeMounts/-", "value": mount},
        {"op": "add", "path": "/spec/template/spec/volumes/-", "value": volume},
    )
    try:
        cluster.kubectl("apply", "-k", str(folder))
        pod = cluster.get("Pod", seat.ready(), VELERO_NAMESPACE)
        assert pod is not None
        run = f"/var/lib/kubelet/pods/{pod['metadata']['uid']}/volumes/kubernetes.io~empty-dir/run"
        guide.variables |= {
            "ADDRESS": pod["status"]["podIP"],
            "CA": str(keys.authority),
            "SOCKET": f"{run}/control.sock",
        }
        assert "5" in guide.run(page, inside)
        guide.run(page, delegate)
        assert guide.variables["NODE"] in guide.run(page, outside)
        data_upload(app, "files").wait_for("Completed")
        printed = guide.run(page, grpcurl)
        assert "lighterage.v1.JobService" in printed
        assert guide.variables["NODE"] in printed
    finally:
        cluster.kubectl("delete", "clusterrolebinding", "lighterage-control", "--ignore-not-found")
        cluster.kubectl("delete", f"role/{name}", f"rolebinding/{name}", PLACE)
        cluster.kubectl("delete", "serviceaccount/operator", "secret/control", PLACE)


@pytest.mark.disturbing
def test_an_agent_goes_on_while_its_collector_of_traces_is_not_there(app: Workload, guide: Guide, seat: Seat) -> None:
    page = "docs/traces.md"
    (variable,) = blocks_of(page)
    guide.run(page, variable)
    seat.ready()
    data_upload(app, "files").wait_for("Completed")
    seat.clear()


@pytest.mark.disturbing
def test_an_agent_that_died_is_looked_at_as_its_runbooks_say(cluster: Cluster, guide: Guide) -> None:
    claim: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": "left-behind",
            "namespace": VELERO_NAMESPACE,
            "labels": {"lighterage.io/job-uid": "00000000-0000-0000-0000-000000000000"},
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    pod = agent_pod(cluster)
    cluster.create(claim)
    cluster.execute(VELERO_NAMESPACE, pod, "python3", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")

    def started_again() -> bool:
        (status,) = (cluster.get("Pod", pod, VELERO_NAMESPACE) or {})["status"]["containerStatuses"]
        return bool(status["restartCount"] and status["ready"])

    # The kubelet waits longer with each end of a container that it has seen lately: five minutes at most.
    cluster.wait("the agent has started again", 330, started_again)
    guide.variables["POD"] = pod
    printed = "".join(guide.run(AGENT_DOWN, block) for block in blocks_of(AGENT_DOWN))
    assert "Last State:" in printed
    # The first search of an agent is within its first minute.
    gone = "the claim of a job that does not exist is gone"
    cluster.wait(gone, 90, lambda: cluster.get("PersistentVolumeClaim", "left-behind", VELERO_NAMESPACE) is None)
    assert "left-behind" in "".join(guide.run(LEFTOVERS, block) for block in blocks_of(LEFTOVERS))


@pytest.mark.disturbing
def test_monitors_are_looked_for_where_the_operator_has_been_told_of_the_agent(cluster: Cluster, guide: Guide) -> None:
    kinds = {"podmonitors": "PodMonitor", "servicemonitors": "ServiceMonitor"}
    group = "monitoring.coreos.com"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    definitions = [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}"},
            "spec": {
                "group": group,
                "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
                "scope": "Namespaced",
                "versions": [version],
            },
        }
        for plural, kind in kinds.items()
    ]
    listed = yaml.safe_dump_all(definitions)
    cluster.kubectl("create", "--filename=-", given=listed)
    try:
        names = [f"crd/{plural}.{group}" for plural in kinds]
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)
        monitor = str(ROOT / "deploy" / "observability" / "podmonitor.yaml")
        cluster.wait("the kind is served", 60, lambda: "podmonitor" in cluster.kubectl("api-resources", "-o=name"))
        cluster.kubectl("apply", f"--filename={monitor}", PLACE)
        assert "lighterage" in "".join(guide.run(ABSENT, block) for block in blocks_of(ABSENT))
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "--filename=-", given=listed)
