"""`lighter agent`: the daemon, with every flag of Velero's `node-agent server`, and commands that ask daemons."""

from __future__ import annotations

from typing import Annotated

import click
import msgspec

from agent.base.errors import ConfigurationError
from agent.cli.agent_jobs import cancel, jobs, pause, resume
from agent.cli.agent_relay import relay
from agent.cli.agent_snapshots import cat, ls, restore
from agent.cli.agent_state import limits, status
from agent.cli.agent_watch import watch
from agent.cli.console import json_result, print_json, print_table
from agent.cli.go_flags import GoDuration, comma_list, given_in_vain, ignored_flags
from agent.cli.options import log_options
from agent.server.flags import (
    DEFAULT_CONTROL_SOCKET,
    DEFAULT_METRICS_ADDRESS,
    DEFAULT_MOVER_ACCOUNT,
    DEFAULT_NAMESPACE,
    DEFAULT_OWN_CONFIGMAP,
    DEFAULT_PREPARE_TIMEOUT,
    DEFAULT_RESOURCE_TIMEOUT,
    DEFAULT_SCRATCH,
    IGNORED_FLAGS,
    AgentFlags,
)


class CheckFinding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    check: Annotated[str, msgspec.Meta(description="what was looked at")]
    verdict: Annotated[str, msgspec.Meta(description="ok, less (the agent does without) or fatal (it cannot work)")]
    text: Annotated[str, msgspec.Meta(description="what was found, and what to do")]


class CheckResult(msgspec.Struct, frozen=True, rename="camel"):
    """What the self-test found."""

    node: Annotated[str, msgspec.Meta(description="the node whose agent this would be")]
    namespace: Annotated[str, msgspec.Meta(description="Velero's namespace")]
    pod_volumes: Annotated[bool, msgspec.Meta(description="whether pod volumes can be backed up and restored here")]
    snapshots: Annotated[bool, msgspec.Meta(description="whether data of CSI snapshots can be moved")]
    findings: Annotated[list[CheckFinding], msgspec.Meta(description="everything that was looked at")]


@click.group()
def agent() -> None:
    """Run the agent of a Kubernetes node in place of Velero's, and ask agents that run."""


for _command in (status, jobs, watch, cancel, pause, resume, limits, ls, cat, restore, relay):
    agent.add_command(_command)


@agent.command(
    epilog="\b\nExamples:\n  lighter agent run --node-agent-configmap=node-agent-config --log-format=json\n"
    "  lighter agent run --check --kubeconfig ~/.kube/config"
)
@json_result(CheckResult)
@click.option("--check", is_flag=True, help="Only look whether the agent could work here, and print what is missing.")
@click.option("--node", envvar="NODE_NAME", metavar="NAME", default="", help="The node. [env: NODE_NAME]")
@click.option(
    "-n",
    "--namespace",
    envvar="VELERO_NAMESPACE",
    default=DEFAULT_NAMESPACE,
    show_default=True,
    help="Velero's namespace. [env: VELERO_NAMESPACE]",
)
@click.option("--node-agent-configmap", default="", metavar="NAME", help="Velero's configuration of node agents.")
@click.option(
    "--lighterage-configmap",
    default=DEFAULT_OWN_CONFIGMAP,
    show_default=True,
    metavar="NAME",
    help="Our own configuration on top of it; it may be missing.",
)
@click.option(
    "--backup-repository-configmap", default="", metavar="NAME", help="Velero's configuration of new repositories."
)
@log_options
@click.option(
    "--metrics-address",
    default=DEFAULT_METRICS_ADDRESS,
    show_default=True,
    help="Where /metrics, /healthz and /readyz are.",
)
@click.option(
    "--resource-timeout",
    type=GoDuration(),
    default=DEFAULT_RESOURCE_TIMEOUT,
    show_default=True,
    expose_value=False,
    help="Taken as Velero's agent does; every wait here has a limit of its own.",
)
@click.option(
    "--data-mover-prepare-timeout",
    type=GoDuration(),
    default=DEFAULT_PREPARE_TIMEOUT,
    show_default=True,
    help="For a volume to become accessible.",
)
@click.option(
    "--termination-grace",
    type=GoDuration(),
    default="30s",
    show_default=True,
    help="What the pod is given to end; running backups save what they have in it.",
)
@click.option("--features", multiple=True, callback=comma_list, help="Velero's feature flags; unknown ones warn.")
@click.option("--kubeconfig", envvar="KUBECONFIG", default="", metavar="FILE", help="[env: KUBECONFIG; else the pod's]")
@click.option("--kubecontext", default="", metavar="NAME", help="Context of the kubeconfig; else its current one.")
@click.option(
    "--host-pods",
    default="/host_pods",
    show_default=True,
    metavar="DIR",
    help="The `pods` folder of the kubelet's root.",
)
@click.option(
    "--mover-service-account",
    default=DEFAULT_MOVER_ACCOUNT,
    show_default=True,
    metavar="NAME",
    help="Of pods that move data; empty, or where it does not exist: the agent's own.",
)
@click.option("--cache-dir", default="", metavar="DIR", help="For caches; else below VELERO_SCRATCH_DIR, or /scratch.")
@click.option(
    "--control-socket",
    default=DEFAULT_CONTROL_SOCKET,
    show_default=True,
    metavar="PATH",
    help="Unix socket of the control API, for processes of this pod; empty for none.",
)
@click.option("--control-address", default="", metavar="HOST:PORT", help="Where the control API listens over TLS.")
@click.option("--control-cert", default="", metavar="FILE", help="The certificate that it shows there.")
@click.option("--control-key", default="", metavar="FILE", help="Its key.")
@click.option(
    "--control-client-ca",
    default="",
    metavar="FILE",
    help="Only callers with a certificate of this authority may speak there; else they need a token.",
)
@click.option("--scratch", envvar="VELERO_SCRATCH_DIR", default=DEFAULT_SCRATCH, hidden=True)
@ignored_flags(IGNORED_FLAGS)
@click.pass_context
def run(
    context: click.Context,
    as_json: bool,
    check: bool,
    node: str,
    namespace: str,
    node_agent_configmap: str,
    lighterage_configmap: str,
    backup_repository_configmap: str,
    log_level: str,
    log_format: str,
    metrics_address: str,
    data_mover_prepare_timeout: float,
    termination_grace: float,
    features: tuple[str, ...],
    kubeconfig: str,
    kubecontext: str,
    host_pods: str,
    mover_service_account: str,
    cache_dir: str,
    control_socket: str,
    control_address: str,
    control_cert: str,
    control_key: str,
    control_client_ca: str,
    scratch: str,
) -> None:
    """Move the data of this node's volumes until the agent is told to end.

    Takes every flag of Velero's `node-agent server`; what has no meaning here is ignored. SIGTERM and SIGINT end it in
    order: running backups save what they have, and the next agent goes on from there. A second signal ends it at once.
    """
    if not node:
        raise ConfigurationError(
            "the name of the node is not known", hint="set NODE_NAME by the field spec.nodeName, or give --node"
        )
    flags = AgentFlags(
        node=node,
        namespace=namespace,
        log_level=log_level,
        log_format=log_format,
        features=features,
        metrics_address=metrics_address,
        prepare_timeout=data_mover_prepare_timeout,
        node_agent_configmap=node_agent_configmap,
        backup_repository_configmap=backup_repository_configmap,
        lighterage_configmap=lighterage_configmap,
        kubeconfig=kubeconfig,
        kubecontext=kubecontext,
        host_pods=host_pods,
        mover_service_account=mover_service_account,
        cache_dir=cache_dir or f"{scratch}/lighterage",
        control_socket=control_socket,
        control_address=control_address,
        control_cert=control_cert,
        control_key=control_key,
        control_client_ca=control_client_ca,
        termination_grace=termination_grace,
        without_effect=given_in_vain(context),
    )
    if check:
        _check(flags, as_json)
    else:
        _serve(flags)


def _check(flags: AgentFlags, as_json: bool) -> None:
    from agent.cli.run import run as run_command
    from agent.server.check import check

    test = run_command(check(flags))
    if as_json:
        found = [CheckFinding(one.check, one.verdict, one.text) for one in test.findings]
        print_json(CheckResult(flags.node, flags.namespace, test.pod_volumes, test.snapshots, found))
    else:
        print_table(("CHECK", "", "FOUND"), [(one.check, one.verdict, one.text) for one in test.findings])
    if test.is_fatal:
        raise ConfigurationError("the agent cannot work here", hint="the findings say what is missing")


def _serve(flags: AgentFlags) -> None:
    from agent.server.app import serve

    serve(flags)
