"""Write docs/permissions.md from the table of rights: `python -m hack.permissions_docs`.

A test compares the file with what this makes, so the reference cannot fall behind.
"""

from __future__ import annotations

from pathlib import Path

from agent.server.rights import MOVER_RIGHTS, RIGHTS, Need, Scope

TARGET = Path(__file__).resolve().parent.parent / "docs" / "permissions.md"

_INTRO = """\
# What the agent may do, and why

<!-- Made by `python -m hack.permissions_docs` from agent/server/rights.py; edit that. -->

Velero's own agent runs as cluster administrator. This one needs what is listed here, and `deploy/daemonset` and the
chart grant exactly that; no rule has a wildcard, and tests hold both to this table.

`lighter agent run --check` asks the API server for each of these rights and names those that are missing. The agent
does the same at its start and does without where it can: the last column says what becomes of it.
"""

_MOVERS = """\
## Pods that move data

Where the agent cannot see a volume itself, the pod that mounts it moves the data (`runner` in
[configuration.md](configuration.md)). Such a pod has an account of its own, `lighterage-mover`
(`--mover-service-account`), with these rights in Velero's namespace and none on secrets: the repository's password and
the credentials of its location are mounted. Where the account does not exist its pods use the agent's, and the
self-test says so. With roles for service accounts (IRSA, workload identity) both accounts need the annotation. The
role of a pod that only holds a volume for the agent does not matter: it gets no token.

"""

_COPIES = """\
## Only for `secretNames` and `configMapNames`

`backupPVC` and `restorePVC` may name secrets and ConfigMaps that a CSI driver needs beside a volume. Copying them
takes `get` on both kinds in every namespace, and `create`, `patch`, `delete` in Velero's. Reading every secret of a
cluster is a lot, so this is a grant of its own: `deploy/daemonset/secret-copies`, or `rbac.secretCopies` of the chart.
"""

_POD = """\
## Only for the control API at an address

An agent that listens at an address has the API server review its callers' tokens and rights (TokenReview and
SubjectAccessReview), which takes a binding to the cluster's own role `system:auth-delegator`; what callers need is in
[control-api.md](control-api.md#at-an-address). Over the Unix socket it asks nobody.

## On the node

The pod runs as user 0 with a read-only root file system, without privilege escalation, under the runtime's seccomp
profile, and with these capabilities only:

| capability | why |
|---|---|
| `DAC_OVERRIDE`, `DAC_READ_SEARCH` | files are read and written whatever their mode and owner |
| `CHOWN`, `FSETID` | restored files get their owner, and keep set-uid and set-gid bits |
| `FOWNER` | they get their mode and times although they belong to somebody else |
| `MKNOD` | restored trees get their device nodes |
| `SETFCAP` | restored files get their file capabilities |

`/var/lib/kubelet/pods` is mounted for the volumes of pods, `/var/lib/kubelet/plugins` for those that drivers mount
there.

Without both (`hostPaths: false` of the chart, `deploy/without-host-paths`) pod volumes are left alone, and snapshots
are read in pods of their own. The agent then opens no volume and runs as user 65532, `runAsNonRoot`, without any
capability: its pod meets the Pod Security Standard `restricted`. What it writes (caches, temporary files, the socket of
the control API) lies in volumes of its pod. The pods that move data are user 0 in every mode, with the capabilities
that the runtime gives: files of any owner and mode have to be read, and restored with theirs. They meet `baseline`,
which is what Velero's namespace then has to allow.
"""

_WITHOUT = {
    Need.AGENT: "it does not start",
    Need.SNAPSHOTS: "no data of snapshots is moved",
    Need.POD_VOLUMES: "pod volumes are left alone",
    Need.COMFORT: "it says less, or reacts later",
}


def render() -> str:
    """The whole document."""
    return "\n".join(
        [
            _INTRO,
            "## In Velero's namespace\n",
            _table(Scope.NAMESPACE),
            "## In the whole cluster\n",
            _table(Scope.CLUSTER),
            _MOVERS + _mover_table(),
            _COPIES,
            _POD,
        ]
    )


def _mover_table() -> str:
    lines = [f"| `{right.name}` | {', '.join(right.verbs)} | {right.use} |" for right in MOVER_RIGHTS]
    return "\n".join(["| kind | verbs | to |", "|---|---|---|", *lines, ""])


def _table(scope: Scope) -> str:
    lines = [
        f"| `{right.name}` | {', '.join(right.verbs)} | {right.use} | {_WITHOUT[right.need]} |"
        for right in RIGHTS
        if right.scope is scope
    ]
    return "\n".join(["| kind | verbs | to | without |", "|---|---|---|---|", *lines, ""])


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
