"""The API server's own record of requests that Velero's service account made, counted by who made them."""

from __future__ import annotations

import json
import os
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
    """Counts from the moment it is made, over all files into which the log is rotated; without a log nothing."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._then = log.stat() if log.exists() else None

    def of_data_movement(self) -> int:
        """By agents and the pods that move data, not by Velero's server, its hooks and its maintenance."""
        count = 0
        for path in self._files():
            with open(path, encoding="utf-8") as lines:
                lines.seek(self._then.st_size if self._then is not None and self._is_then(path) else 0)
                count += sum(_by_agent(line) for line in lines if line.endswith("\n"))
        return count

    def _files(self) -> list[Path]:
        """Those with lines since then, oldest first: a rotated file has its time in its name."""
        files = sorted(self._log.parent.glob(f"{self._log.stem}-*{self._log.suffix}"))
        files += [self._log] if self._log.exists() else []
        return files[next((i for i, path in enumerate(files) if self._is_then(path)), 0) :]

    def _is_then(self, path: Path) -> bool:
        """Whether this was the log then, whatever its name is now."""
        return self._then is not None and os.path.samestat(path.stat(), self._then)


def _by_agent(line: str) -> bool:
    user = json.loads(line)["user"]
    (pod,) = (user.get("extra") or {}).get(_POD) or [""]
    return user["username"].startswith(_ACCOUNT) and not pod.startswith("velero-")
