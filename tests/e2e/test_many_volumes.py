"""Many volumes in one backup: none starves, nothing is left (issue: 200 small volumes; E2E_VOLUMES says how many)."""

from __future__ import annotations

import os

import pytest

from tests.e2e.conftest import Applications, Comparison
from tests.e2e.velero import MOVE, Velero
from tests.e2e.workload import Volume

pytestmark = [pytest.mark.slow, pytest.mark.disturbing]

_COUNT = int(os.environ.get("E2E_VOLUMES", "40"))


def test_many_small_volumes(applications: Applications, assert_equal: Comparison, velero: Velero) -> None:
    volumes = [Volume(f"files-{number:03d}", size="10Mi") for number in range(_COUNT)]
    app = applications.deploy(*volumes)
    app.shell("for folder in /data/*; do echo $folder >$folder/name; done")
    before = app.content()

    velero.backup(app.namespace, app.namespace, MOVE, seconds=60 + 20 * _COUNT)
    uploads = velero.movements(backup=app.namespace)
    assert {upload.phase for upload in uploads} == {"Completed"}
    assert len(uploads) == _COUNT
    assert velero.leftovers([app.namespace], uploads) == []

    applications.delete()
    velero.restore(app.namespace, app.namespace, seconds=60 + 20 * _COUNT)
    app.wait_until_running()
    assert_equal(before, app.content())
