"""The chart: what it makes by default is what deploy/daemonset makes, and every value does what it says."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli.agent import run
from agent.kube.meta import ConfigMap, ObjectMeta
from agent.server.configuration import parse_configuration
from agent.server.flags import DEFAULT_CONTROL_SOCKET, DEFAULT_SCRATCH
from agent.server.rights import RIGHTS, Scope
from tests.unit.deploy.chart_kit import CHART, DEPLOY, Json, Objects, Render


def of_kustomize(folder: Path) -> Objects:
    """What `kubectl kustomize` makes of a folder that only sets a namespace, a label and a tag."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    namespace = kustomization["namespace"]
    objects = [one for name in kustomization["resources"] for one in yaml.safe_load_all((folder / name).read_text())]
    for one in objects:
        if not one["kind"].startswith("Cluster"):
            one["metadata"]["namespace"] = namespace
        if one["kind"] == "DaemonSet":
            one["spec"]["template"]["metadata"]["labels"] |= kustomization["labels"][0]["pairs"]
            (image,) = kustomization["images"]
            one["spec"]["template"]["spec"]["containers"][0]["image"] = f"{image['name']}:{image['newTag']}"
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


def without_labels(objects: Objects) -> Objects:
    for one in objects.values():
        one["metadata"].pop("labels", None)
    return objects


def agent_pod(objects: Objects) -> Json:
    spec = objects["DaemonSet", "node-agent"]["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def agent_container(objects: Objects) -> Json:
    (container,) = agent_pod(objects)["containers"]
    assert isinstance(container, dict)
    return container


# ---- beside deploy/daemonset ----


def test_the_defaults_make_what_the_manifests_make(render: Render) -> None:
    assert without_labels(render()) == without_labels(of_kustomize(DEPLOY / "daemonset"))


def test_each_object_carries_the_labels_of_velero_and_of_the_chart(render: Render) -> None:
    for one in render().values():
        labels = one["metadata"]["labels"]
        assert labels["component"] == "velero"
        assert labels["app.kubernetes.io/name"] == "lighterage"


def test_the_server_finds_the_agent_whatever_labels_are_added(render: Render) -> None:
    template = render({"podLabels": {"team": "storage"}})["DaemonSet", "node-agent"]["spec"]["template"]
    assert template["metadata"]["labels"] == {
        "name": "node-agent",
        "role": "node-agent",
        "component": "velero",
        "team": "storage",
    }


def test_capabilities_have_the_reasons_that_the_manifest_gives() -> None:
    def lines(path: Path) -> list[str]:
        text = path.read_text()
        found = [line.strip() for line in text[text.index("drop: [ALL]") :].splitlines()]
        return [line for line in found if not line.startswith("{{")][1:14]

    manifest, template = lines(DEPLOY / "daemonset" / "daemonset.yaml"), lines(CHART / "templates" / "daemonset.yaml")
    assert manifest[-1] == "- SETFCAP"
    assert template == manifest


# ---- rights ----


@pytest.mark.parametrize(("kind", "scope"), [("Role", Scope.NAMESPACE), ("ClusterRole", Scope.CLUSTER)])
def test_roles_grant_what_the_self_test_asks_for_and_nothing_more(render: Render, kind: str, scope: Scope) -> None:
    granted = [
        (group, plural, tuple(rule["verbs"]))
        for rule in render()[kind, "lighterage-node-agent"]["rules"]
        for group in rule["apiGroups"]
        for plural in rule["resources"]
    ]
    assert granted == [(right.group, right.plural, right.verbs) for right in RIGHTS if right.scope is scope]


def test_copies_of_secrets_are_granted_when_they_are_asked_for(render: Render) -> None:
    assert not any(name == "lighterage-secret-copies" for _, name in render())
    made = without_labels(render({"rbac": {"secretCopies": True}}))
    wanted = without_labels(of_kustomize(DEPLOY / "daemonset" / "secret-copies"))
    assert {key: made[key] for key in wanted} == wanted


def test_a_second_velero_in_the_cluster_has_roles_of_its_own(render: Render) -> None:
    values = {"rbac": {"name": "lighterage-backup", "secretCopies": True}, "serviceAccount": {"name": "agent"}}
    objects = render(values, namespace="backup")
    names = {name for kind, name in objects if kind.startswith("Cluster")}
    assert names == {"lighterage-backup", "lighterage-backup-secret-copies"}
    for (kind, name), one in objects.items():
        if kind.endswith("Binding"):
            assert one["roleRef"]["name"] == name
            account = "lighterage-mover" if name == "lighterage-mover" else "agent"
            assert one["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "backup"}]
    assert agent_pod(objects)["serviceAccountName"] == "agent"


def test_the_account_of_mover_pods_can_be_another_one_or_that_of_the_agent(render: Render) -> None:
    role_arn = {"eks.amazonaws.com/role-arn": "arn"}
    objects = render({"moverServiceAccount": {"name": "mover", "annotations": role_arn}})
    assert objects["ServiceAccount", "mover"]["metadata"]["annotations"] == role_arn
    assert objects["RoleBinding", "mover"]["subjects"][0]["name"] == "mover"
    assert "--mover-service-account=mover" in agent_container(objects)["args"]
    without = render({"moverServiceAccount": {"name": ""}})
    assert [name for kind, name in without if kind == "ServiceAccount"] == ["node-agent"]
    assert "--mover-service-account=" in agent_container(without)["args"]


def test_rights_and_account_of_somebody_else_are_left_alone(render: Render) -> None:
    accounts = {"serviceAccount": {"create": False, "name": "velero"}, "moverServiceAccount": {"create": False}}
    objects = render({"rbac": {"create": False}, **accounts})
    assert set(objects) == {("DaemonSet", "node-agent")}


# ---- values ----


def test_the_command_line_is_one_that_the_command_takes(render: Render) -> None:
    agent = {
        "nodeAgentConfigMap": "node-agent-config",
        "backupRepositoryConfigMap": "repositories",
        "logLevel": "debug",
        "logFormat": "json",
        "features": ["EnableCSI", "EnableAPIGroupVersions"],
        "prepareTimeout": "1h",
        "extraArgs": ["--lighterage-configmap=ours"],
    }
    container = agent_container(render({"agent": agent, "terminationGracePeriodSeconds": 300}))
    assert container["args"][:2] == ["agent", "run"]
    given = run.make_context("run", list(container["args"][2:])).params
    assert given["node_agent_configmap"] == "node-agent-config"
    assert given["backup_repository_configmap"] == "repositories"
    assert (given["log_level"], given["log_format"]) == ("debug", "json")
    assert given["features"] == ("EnableCSI", "EnableAPIGroupVersions")
    assert given["data_mover_prepare_timeout"] == 3600
    assert given["termination_grace"] == 290
    assert given["lighterage_configmap"] == "ours"


def test_our_configuration_becomes_a_configmap_that_the_agent_reads(render: Render) -> None:
    config = {"limits": {"uploadBytesPerSecond": "200Mi", "memory": "4Gi"}, "keepPartial": True}
    made = render({"agent": {"config": config}})["ConfigMap", "lighterage-config"]
    metadata = ObjectMeta(name="lighterage-config", namespace="velero")
    config_map = ConfigMap(api_version="v1", kind="ConfigMap", metadata=metadata, data=made["data"])
    loaded = parse_configuration(None, config_map)
    assert loaded.warnings == ()
    assert loaded.config.limits.memory_bytes == 4 << 30
    assert loaded.config.keep_partial


def test_without_host_paths_and_credentials_nothing_of_them_is_left(render: Render) -> None:
    objects = render({"hostPaths": False, "credentialsSecret": ""})
    assert [volume["name"] for volume in agent_pod(objects)["volumes"]] == ["scratch", "tmp", "run"]
    assert [mount["name"] for mount in agent_container(objects)["volumeMounts"]] == ["scratch", "tmp", "run"]
    assert "AWS_SHARED_CREDENTIALS_FILE" not in {variable["name"] for variable in agent_container(objects)["env"]}


def test_without_host_paths_the_agent_is_not_root_and_has_no_capability(render: Render) -> None:
    objects = render({"hostPaths": False})
    pod, container = agent_pod(objects)["securityContext"], agent_container(objects)["securityContext"]
    assert (pod["runAsNonRoot"], pod["runAsUser"], pod["runAsGroup"]) == (True, 65532, 65532)
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["readOnlyRootFilesystem"] is True and container["allowPrivilegeEscalation"] is False
    # All that it writes lies there, and anybody may write to a new emptyDir.
    arguments = {one.partition("=")[0] for one in agent_container(objects)["args"]}
    assert not arguments & {"--cache-dir", "--control-socket"}
    written = {mount["mountPath"]: mount["name"] for mount in agent_container(objects)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in agent_pod(objects)["volumes"]}
    for folder in (DEFAULT_SCRATCH, str(Path(DEFAULT_CONTROL_SOCKET).parent), "/tmp"):
        assert "emptyDir" in volumes[written[folder]]
    assert volumes[written["/credentials"]]["secret"]["defaultMode"] == 0o444


def test_without_host_paths_the_manifests_make_what_the_chart_makes(render: Render) -> None:
    folder = DEPLOY / "without-host-paths"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization["resources"] == ["../daemonset"]
    objects = of_kustomize(DEPLOY / "daemonset")
    (patch,) = kustomization["patches"]
    change(objects[patch["target"]["kind"], patch["target"]["name"]], yaml.safe_load(patch["patch"]))
    assert without_labels(render({"hostPaths": False})) == without_labels(objects)


def change(one: Json, patch: list[Json]) -> None:
    """The operations of a JSON patch that our overlay has, as `kubectl kustomize` does them."""
    for step in patch:
        *path, last = step["path"].removeprefix("/").split("/")
        inside: Any = one
        for name in path:
            inside = inside[int(name) if isinstance(inside, list) else name]
        key = int(last) if isinstance(inside, list) else last
        match step["op"]:
            case "test":
                assert inside[key] == step["value"]
            case "remove":
                del inside[key]
            case "add" | "replace" as operation:
                assert (key in inside) == (operation == "replace")
                inside[key] = step["value"]


def test_everything_that_differs_between_clusters_can_be_set(render: Render) -> None:
    objects = render(
        {
            "image": {"repository": "registry.example.com/lighterage", "digest": "sha256:" + "0" * 64},
            "imagePullSecrets": [{"name": "pull"}],
            "kubeletRootDir": "/var/snap/kubelet",
            "priorityClassName": "system-node-critical",
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "podAnnotations": {"a": "b"},
            "scrapeAnnotations": False,
            "scratch": {"sizeLimit": "10Gi"},
            "seccompProfile": {"type": "Localhost", "localhostProfile": "agent.json"},
            "extraCapabilities": ["SYS_ADMIN"],
            "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
            "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
            "agent": {"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]},
            "resources": {"limits": {"memory": "8Gi"}},
            "updateStrategy": {"type": "OnDelete", "rollingUpdate": None},
            "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}},
        }
    )
    pod, container = agent_pod(objects), agent_container(objects)
    daemon_set = objects["DaemonSet", "node-agent"]["spec"]
    assert container["image"] == "registry.example.com/lighterage@sha256:" + "0" * 64
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["volumes"][0]["hostPath"]["path"] == "/var/snap/kubelet/pods"
    assert pod["volumes"][1]["hostPath"]["path"] == "/var/snap/kubelet/plugins"
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "disk": "fast"}
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["affinity"] == {"nodeAffinity": {}}
    assert daemon_set["template"]["metadata"]["annotations"] == {"a": "b"}
    assert pod["volumes"][2] == {"name": "scratch", "emptyDir": {"sizeLimit": "10Gi"}}
    assert pod["securityContext"]["seccompProfile"]["localhostProfile"] == "agent.json"
    assert container["securityContext"]["capabilities"]["add"][-1] == "SYS_ADMIN"
    assert pod["volumes"][-1]["name"] == container["volumeMounts"][-1]["name"] == "ca"
    assert container["env"][-1]["name"] == "HTTPS_PROXY"
    assert container["resources"]["limits"]["memory"] == "8Gi"
    assert daemon_set["updateStrategy"] == {"type": "OnDelete"}
    assert objects["ServiceAccount", "node-agent"]["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn"}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("hostpaths=true", "hostpaths"),
        ("agent.loglevel=debug", "loglevel"),
        ("agent.logLevel=loud", "logLevel"),
        ("image.digest=latest", "digest"),
        ("podLabels.role=mine", "'role'"),
        ("terminationGracePeriodSeconds=5", "terminationGracePeriodSeconds"),
        ("kubeletRootDir=kubelet", "kubeletRootDir"),
        ("networkPolicy.egressPorts[0]=0", "egressPorts"),
        ("prometheusRule.runbookBaseUrl=runbooks", "runbookBaseUrl"),
    ],
)
def test_the_schema_refuses_a_mistake_and_names_it(
    helm: Callable[..., subprocess.CompletedProcess[str]], value: str, named: str
) -> None:
    done = helm("template", "lighterage", str(CHART), "--set", value)
    assert done.returncode != 0
    assert named in done.stderr


def test_the_schema_and_the_documented_values_have_the_same_keys() -> None:
    def keys(values: Json, path: str = "") -> set[str]:
        return {path + key for key in values} | {
            name for key, value in values.items() if isinstance(value, dict) for name in keys(value, f"{path}{key}.")
        }

    def closed(schema: Json, path: str = "") -> set[str]:
        found = set()
        for key, value in schema.get("properties", {}).items():
            found.add(path + key)
            if value.get("additionalProperties") is False:
                found |= closed(value, f"{path}{key}.")
        return found

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    free = {"resources", "scratch", "seccompProfile", "updateStrategy", "nodeSelector", "dashboard.labels"}
    in_schema = {key for key in closed(schema) if key.rpartition(".")[0] not in free} - {"global"}
    documented = {key for key in keys(values) if not any(key.startswith(f"{one}.") for one in free)}
    assert documented == in_schema


# ---- around the agent ----


@pytest.mark.parametrize(("value", "kind"), [("podMonitor", "PodMonitor"), ("serviceMonitor", "ServiceMonitor")])
def test_monitors_give_targets_the_labels_that_rules_select_by(render: Render, value: str, kind: str) -> None:
    objects = render({value: {"enabled": True, "labels": {"release": "prometheus"}, "interval": "1m"}})
    monitor = objects[kind, "lighterage"]
    (endpoint,) = monitor["spec"].get("podMetricsEndpoints") or monitor["spec"]["endpoints"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert endpoint["honorLabels"] is True
    assert {one["targetLabel"] for one in endpoint["relabelings"]} == {"job", "node"}
    assert endpoint["relabelings"][0]["replacement"] == "lighterage"
    labels = objects["DaemonSet", "node-agent"]["spec"]["template"]["metadata"]["labels"]
    if kind == "ServiceMonitor":
        service = objects["Service", "node-agent-metrics"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert service["spec"]["selector"].items() <= labels.items()
        assert service["spec"]["publishNotReadyAddresses"] is True
    else:
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_monitor_network_policy_and_dashboard_are_those_of_the_folder_beside(render: Render) -> None:
    folder = DEPLOY / "observability"
    objects = render({name: {"enabled": True} for name in ("podMonitor", "networkPolicy", "dashboard")})
    for kind, name, file in (
        ("PodMonitor", "lighterage", "podmonitor.yaml"),
        ("NetworkPolicy", "lighterage-node-agent", "networkpolicy.yaml"),
    ):
        assert objects[kind, name]["spec"] == yaml.safe_load((folder / file).read_text())["spec"]
    config_map = objects["ConfigMap", "lighterage-dashboard"]
    assert json.loads(config_map["data"]["lighterage.json"]) == json.loads((folder / "dashboard.json").read_text())
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_alerts_are_those_of_the_rules_and_lead_to_where_runbooks_are_served(render: Render) -> None:
    rules = yaml.safe_load((DEPLOY / "observability" / "rules.yaml").read_text())
    plain = render({"prometheusRule": {"enabled": True}})["PrometheusRule", "lighterage"]
    assert plain["spec"] == rules
    served = {"enabled": True, "runbookBaseUrl": "https://docs.example.com/runbooks/"}
    linked = render({"prometheusRule": served})["PrometheusRule", "lighterage"]
    for group in linked["spec"]["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["annotations"]["runbook_url"] == f"https://docs.example.com/runbooks/{rule['alert']}.md"


def test_the_network_policy_takes_other_ports_and_peers(render: Render) -> None:
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    store = {"ports": [{"port": 9000}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    values = {"enabled": True, "metricsFrom": [monitoring], "egressPorts": [6443], "extraEgress": [store]}
    spec = render({"networkPolicy": values})["NetworkPolicy", "lighterage-node-agent"]["spec"]
    assert spec["ingress"][0]["from"] == [monitoring]
    assert spec["egress"][1]["ports"] == [{"port": 6443, "protocol": "TCP"}]
    assert spec["egress"][2] == store


# ---- as a package ----


def test_lint_finds_nothing_and_a_package_holds_what_the_links_lead_to(
    helm: Callable[..., subprocess.CompletedProcess[str]], render: Render, tmp_path: Path
) -> None:
    linted = helm("lint", "--strict", str(CHART))
    assert linted.returncode == 0, linted.stdout
    assert helm("package", str(CHART), "--destination", str(tmp_path)).returncode == 0
    (package,) = tmp_path.glob("lighterage-*.tgz")
    with tarfile.open(package) as tar:
        assert not any(member.issym() for member in tar.getmembers())
    everything = {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}
    assert render(everything, chart=package) == render(everything)
