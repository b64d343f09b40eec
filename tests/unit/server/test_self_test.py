"""What the agent finds missing at its start, and what it does without."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.base.errors import KubeNotFound
from agent.kube.meta import ConfigMap, Key, ObjectMeta
from agent.kube.resource import CONFIG_MAPS, CUSTOM_RESOURCE_DEFINITIONS, SERVICE_ACCOUNTS, VOLUME_SNAPSHOT_CONTENTS
from agent.server.check import check_at
from agent.server.definitions import InstalledDefinitions
from agent.server.flags import DEFAULT_MOVER_ACCOUNT, AgentFlags
from agent.server.mounts import MountTable
from agent.server.self_test import Place, SelfTest, Verdict, run_self_test
from tests.unit.server.server_kit import NAMESPACE, World

NODE = "node-a"


class Node(World):
    """A node whose kubelet's pods folder is `host_pods`."""

    def __init__(self, folder: Path, *, shared: bool = True) -> None:
        super().__init__()
        self.host_pods = folder / "host_pods"
        self.host_pods.mkdir()
        options = "master:1 " if shared else ""
        self.table = folder / "mountinfo"
        self.table.write_text(
            f"1 0 0:1 / / rw - overlay o rw\n2 1 8:1 /pods {self.host_pods.resolve()} rw {options}- ext4 /dev/sda rw\n"
        )
        self.install()
        self.account = DEFAULT_MOVER_ACCOUNT

    async def test(self) -> SelfTest:
        place = Place(node=NODE, namespace=NAMESPACE, host_pods=str(self.host_pods), mover_account=self.account)
        return await run_self_test(self.api, InstalledDefinitions(), place, MountTable(self.table))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_where_all_is_as_it_should_be_nothing_is_missing(node: Node) -> None:
    uid = await node.add_running_pod("app", NODE)
    (node.host_pods / uid).mkdir()
    test = await node.test()
    assert test.problems == ()
    assert test.pod_volumes
    assert test.snapshots


async def test_without_the_host_path_snapshots_go_on_and_pod_volumes_do_not(node: Node) -> None:
    node.host_pods.rmdir()
    test = await node.test()
    assert not test.is_fatal
    assert not test.pod_volumes
    assert test.snapshots
    assert "is not mounted" in test.problems[0].text


async def test_a_host_path_without_a_running_pod_is_the_wrong_folder(node: Node) -> None:
    await node.add_running_pod("lost", NODE)
    await node.add_running_pod("elsewhere", "node-b")
    test = await node.test()
    assert test.is_fatal
    assert "app/lost" in test.problems[0].text
    assert "elsewhere" not in test.problems[0].text


async def test_a_pod_that_the_kubelet_made_by_itself_has_the_folder_of_its_hash(node: Node) -> None:
    await node.add_running_pod("etcd", NODE, annotations={"kubernetes.io/config.mirror": "0123abcd"})
    (node.host_pods / "0123abcd").mkdir()
    assert (await node.test()).problems == ()


async def test_a_mount_that_does_not_propagate_is_named_and_used_for_what_it_shows(tmp_path: Path) -> None:
    test = await Node(tmp_path, shared=False).test()
    assert test.pod_volumes
    assert "mountPropagation: HostToContainer" in test.problems[0].text


async def test_a_missing_kind_is_fatal_and_named(node: Node) -> None:
    await node.api.delete(CUSTOM_RESOURCE_DEFINITIONS, Key("", "datauploads.velero.io"))
    test = await node.test()
    assert test.is_fatal
    assert any("install Velero" in one.text for one in test.problems)


async def test_a_right_without_which_nothing_works_is_fatal(node: Node) -> None:
    node.api.denied.add(("patch", "datauploads.velero.io"))
    test = await node.test()
    assert test.is_fatal
    (problem,) = test.problems
    assert problem.check == "right to datauploads.velero.io in velero"
    assert problem.text == "patch is refused; it is needed to take backups of snapshots"


@pytest.mark.parametrize(
    ("right", "pod_volumes", "snapshots"),
    [
        (("watch", "podvolumerestores.velero.io"), False, True),
        (("delete", "volumesnapshots.snapshot.storage.k8s.io"), True, False),
        (("patch", "leases.coordination.k8s.io"), True, True),
    ],
)
async def test_other_rights_cost_what_they_are_for(
    node: Node, right: tuple[str, str], pod_volumes: bool, snapshots: bool
) -> None:
    node.api.denied.add(right)
    test = await node.test()
    assert [one.verdict for one in test.problems] == [Verdict.LESS]
    assert (test.pod_volumes, test.snapshots) == (pod_volumes, snapshots)


async def test_a_cluster_without_snapshots_still_has_pod_volumes(node: Node) -> None:
    node.api.fail("list", VOLUME_SNAPSHOT_CONTENTS.name, KubeNotFound("no such kind"))
    test = await node.test()
    assert not test.snapshots
    assert test.pod_volumes
    assert "snapshot.storage.k8s.io/v1" in test.problems[0].text


async def test_what_cannot_be_read_is_said_and_assumed(node: Node) -> None:
    node.api.denied.add(("get", CUSTOM_RESOURCE_DEFINITIONS.name))
    test = await node.test()
    assert not test.is_fatal
    assert any("taken as in Velero" in one.text for one in test.problems)


@pytest.mark.parametrize(
    ("account", "said"), [("", "none is configured"), ("gone", "the service account gone is not found in velero")]
)
async def test_mover_pods_without_an_account_of_their_own_are_named(node: Node, account: str, said: str) -> None:
    node.account = account
    test = await node.test()
    (problem,) = test.problems
    assert (problem.check, problem.verdict) == ("account of mover pods", Verdict.LESS)
    assert problem.text.startswith(f"{said}: mover pods use the agent's own, which may read secrets")
    assert test.snapshots


async def test_without_the_right_to_see_accounts_mover_pods_use_the_agents(node: Node) -> None:
    node.api.denied.add(("get", SERVICE_ACCOUNTS.name))
    test = await node.test()
    assert {one.check for one in test.problems} == {"account of mover pods", "right to serviceaccounts in velero"}
    assert not test.is_fatal


@pytest.mark.parametrize(
    ("stock", "repositories", "verdict", "words"),
    [
        ("{}", "{}", Verdict.OK, "as it is"),
        ('{"newer": 1}', "{}", Verdict.LESS, "newer is not known"),
        ("{", "{}", Verdict.FATAL, "node-agent-config: it is no JSON"),
        ("{}", '{"cacheLimitMB": "much"}', Verdict.FATAL, "repository-config, key kopia: cacheLimitMB"),
    ],
)
async def test_a_check_reads_every_configuration_that_an_agent_would(
    node: Node, stock: str, repositories: str, verdict: Verdict, words: str
) -> None:
    for name, key, text in ("node-agent-config", "config", stock), ("repository-config", "kopia", repositories):
        metadata = ObjectMeta(name=name, namespace=NAMESPACE)
        await node.api.create(
            CONFIG_MAPS, ConfigMap(api_version="v1", kind="ConfigMap", metadata=metadata, data={key: text})
        )
    flags = AgentFlags(
        node=NODE,
        namespace=NAMESPACE,
        host_pods=str(node.host_pods),
        node_agent_configmap="node-agent-config",
        backup_repository_configmap="repository-config",
    )
    test = await check_at(node.api, flags)
    (finding,) = [one for one in test.findings if one.check == "configuration"]
    assert (finding.verdict, words in finding.text) == (verdict, True)
    assert test.is_fatal == (verdict is Verdict.FATAL)
