"""The API server's own record of requests that Velero's service account made, counted by who made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tests.e2e.cluster import VELERO_NAMESPACE

_ACCOUNT: Final = f"system:serviceaccount:{VELERO_NAMESPACE}:"
_POD: Final = "authentication.kubernetes.io/pod-name"

POLICY: Final[dict[str, Any]] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "Metadata", "userGroups": [f"system:serviceaccounts:{VELERO_NAMESPACE}"]},
        {"level": "None"},
    ],
}
"""A line for each request that ended; watches that go on are none yet."""


class Requests:
    """Counts from the moment it is made; without a log it counts nothing."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._from = log.stat().st_size if log.exists() else 0

    def of_data_movement(self) -> int:
        """By agents and the pods that move data, not by Velero's server, its hooks and its maintenance."""
        if not self._log.exists():
            return 0
        with open(self._log, encoding="utf-8") as lines:
            lines.seek(self._from)
            return sum(_by_agent(line) for line in lines if line.endswith("\n"))


def _by_agent(line: str) -> bool:
    user = json.loads(line)["user"]
    (pod,) = (user.get("extra") or {}).get(_POD) or [""]
    return user["username"].startswith(_ACCOUNT) and not pod.startswith("velero-")
