"""How `make cluster-bench` counts: seconds of phases from what a watch saw, requests from the API server's record."""

from __future__ import annotations

import json
from pathlib import Path

from hack.node.audit import Requests
from hack.node.phases import Seen

_UPLOAD = ("DataUpload", "a")


def _line(user: str, pod: str) -> str:
    extra = {"authentication.kubernetes.io/pod-name": [pod]} if pod else {}
    return json.dumps({"verb": "get", "user": {"username": user, "extra": extra}}) + "\n"


def test_each_phase_lasts_until_the_next_one_that_was_seen() -> None:
    seen = Seen()
    seen.moments[_UPLOAD] = {"": 10.0, "Accepted": 10.5, "Prepared": 13.5, "InProgress": 14.0, "Completed": 20.0}
    assert seen.steps(*_UPLOAD) == (0.5, 3.0, 0.5, 6.0)


def test_a_phase_that_passed_unseen_took_no_time() -> None:
    seen = Seen()
    seen.moments[_UPLOAD] = {"": 10.0, "Accepted": 11.0, "InProgress": 14.0, "Failed": 20.0}
    assert seen.steps(*_UPLOAD) == (1.0, 0.0, 3.0, 6.0)


def test_many_objects_last_from_the_first_creation_to_the_last_end() -> None:
    seen = Seen()
    seen.moments[_UPLOAD] = {"": 10.0, "Completed": 20.0}
    seen.moments["DataUpload", "b"] = {"": 12.0, "Completed": 31.0}
    assert seen.seconds([_UPLOAD, ("DataUpload", "b")]) == 21.0


def test_requests_count_from_now_on_and_only_those_of_agents_and_their_pods(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    account = "system:serviceaccount:velero:velero"
    log.write_text(_line(account, "node-agent-x"))
    requests = Requests(log)
    with open(log, "a", encoding="utf-8") as lines:
        lines.write(_line(account, "node-agent-x") + _line(account, "upload-1") + _line(account, "velero-6d-2"))
        lines.write(_line("system:serviceaccount:kube-system:csi", "csi-0"))
        lines.write(_line(account, "node-agent-x").rstrip())  # still being written
    assert requests.of_data_movement() == 2


def test_requests_count_over_files_that_the_log_was_rotated_into(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    line = _line("system:serviceaccount:velero:velero", "node-agent-x")
    (tmp_path / "audit-2026-01-01T00-00-00.000.log").write_text(line * 7)
    log.write_text(line * 5)
    requests = Requests(log)
    with open(log, "a", encoding="utf-8") as lines:
        lines.write(line * 2)
    log.rename(tmp_path / "audit-2026-01-01T00-00-01.000.log")
    (tmp_path / "audit-2026-01-01T00-00-02.000.log").write_text(line * 3)
    log.write_text(line)
    assert requests.of_data_movement() == 2 + 3 + 1


def test_a_cluster_without_a_record_counts_nothing(tmp_path: Path) -> None:
    assert Requests(tmp_path / "none").of_data_movement() == 0
