"""What is forgotten by policy and by name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from agent.repository.ids import ManifestId, ObjectId
from agent.snapshots.forget import plan_by_name, plan_by_policy
from agent.snapshots.model import DIRECTORY, Entry, Snapshot, Source
from agent.snapshots.store import source_labels

SOURCE = Source("host", "user", "/data")


@dataclass(frozen=True)
class Stored:
    id: ManifestId
    labels: Mapping[str, str]
    data: bytes
    modified_ns: int = 0


class Store:
    def __init__(self, manifests: list[Stored]) -> None:
        self.manifests = manifests

    def find(self, labels: Mapping[str, str]) -> Iterable[Stored]:
        return [m for m in self.manifests if labels.items() <= m.labels.items()]


def snapshot(number: int, *, pinned: bool = False, incomplete: str = "") -> Snapshot:
    return Snapshot(
        id=ManifestId(f"{number:032x}"),
        source=SOURCE,
        start_ns=number * 10**9,
        end_ns=number * 10**9 + 1,
        incomplete=incomplete,
        root=Entry(name="data", type=DIRECTORY, obj=ObjectId("k" + "0" * 32)),
        pins=("keep",) if pinned else (),
    )


def store(snapshots: list[Snapshot], policy: dict[str, object] | None = None) -> Store:
    manifests = [Stored(s.id, source_labels(SOURCE), s.to_json()) for s in snapshots]
    if policy is not None:
        labels = {"type": "policy", "policyType": "global"}
        manifests.append(Stored(ManifestId("f" * 32), labels, msgspec.json.encode(policy)))
    return Store(manifests)


NOTHING_BUT_LATEST = {f"keep{kind}": 0 for kind in ("Hourly", "Daily", "Weekly", "Monthly", "Annual")}


def test_a_policy_expires_what_it_does_not_keep_and_never_what_is_pinned() -> None:
    snapshots = [snapshot(1), snapshot(2, pinned=True), snapshot(3), snapshot(4), snapshot(5, incomplete="canceled")]
    plan = plan_by_policy(store(snapshots, {"retention": {"keepLatest": 2, **NOTHING_BUT_LATEST}}), SOURCE)
    assert [s.start_ns // 10**9 for s in plan.forget] == [1]
    kept = {k.snapshot.start_ns // 10**9: k.reasons for k in plan.keep}
    assert kept == {5: ("incomplete",), 4: ("latest-1",), 3: ("latest-2",), 2: ()}


def test_without_a_policy_kopias_defaults_keep_the_newest_ten() -> None:
    plan = plan_by_policy(store([snapshot(n) for n in range(1, 15)]), SOURCE)
    assert [s.start_ns // 10**9 for s in plan.forget] == [4, 3, 2, 1]


def test_another_source_is_left_alone() -> None:
    assert plan_by_policy(store([snapshot(1)]), Source("host", "user", "/other")).forget == ()


def test_by_name_everything_goes_but_what_is_pinned() -> None:
    plan = plan_by_name([snapshot(1), snapshot(2, pinned=True), snapshot(1)])
    assert [s.start_ns for s in plan.forget] == [10**9]
    assert [k.snapshot.pins for k in plan.keep] == [("keep",)]
