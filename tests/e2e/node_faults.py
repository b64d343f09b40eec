"""Processes of the node taken away and given back: on the cluster of `hack/cluster` only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class NodeFaults:
    """`hold` as `hack/cluster hold` does."""

    def __init__(self, run: Path) -> None:
        self._held = run / "held"

    @contextmanager
    def without(self, *daemons: str) -> Iterator[None]:
        """While this lasts, the daemons are down: s3, apiserver, csi-driver, csi-provisioner, kubelet, ….

        Killed, as a crash does it; they start again at the end.
        """
        for name in daemons:
            (self._held / name).touch()
        try:
            yield
        finally:
            for name in daemons:
                (self._held / name).unlink(missing_ok=True)


def node_faults() -> NodeFaults:
    run = os.environ.get("LIGHTERAGE_CLUSTER_RUN")
    if not run:
        pytest.skip("only hack/cluster can take processes of its node away")
    return NodeFaults(Path(run))
