"""What is known about a volume that does not come: the most telling fact first."""

from __future__ import annotations

from agent.exposers.contract import Waiting
from agent.kube.codec import JsonObject
from agent.kube.resource import EVENTS, PERSISTENT_VOLUME_CLAIMS, VOLUME_SNAPSHOTS
from tests.unit.exposers.csi_kit import JOB, NAME, VELERO, World


async def _waits(world: World) -> None:
    assert isinstance(await world.expose(looks=3), Waiting)


async def test_the_diagnosis_begins_with_what_tells_most_and_names_what_is_missing() -> None:
    world = World()
    await world.build()
    world.csi.faults.provisioning = "rpc error: code = Internal desc = pool is offline"
    await _waits(world)
    facts = await world.exposer().diagnose(await world.job())
    assert facts[0] == (
        "PersistentVolumeClaim velero/backup-x7k2p: ProvisioningFailed: "
        "rpc error: code = Internal desc = pool is offline"
    )
    assert any(fact.startswith("Pod velero/backup-x7k2p: phase Pending") for fact in facts)
    assert any("VolumeSnapshotContent backup-x7k2p: ready to use, policy Delete" in fact for fact in facts)
    assert "VolumeSnapshot app/velero-data-abcde does not exist" in facts


async def test_the_diagnosis_begins_with_the_claim_when_its_provisioner_is_away() -> None:
    world = World()
    await world.build()
    world.csi.faults.provisioning = "no room"
    await _waits(world)
    for said in (await world.kube.list(EVENTS)).items:
        world.kube.remove(EVENTS, said.key)
    claim = await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    event: JsonObject = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "waits", "namespace": VELERO},
        "involvedObject": {"kind": "PersistentVolumeClaim", "name": NAME, "uid": claim.metadata.uid},
        "type": "Normal",
        "reason": "ExternalProvisioning",
        "message": "Waiting for a volume to be created by the external provisioner",
    }
    world.kube.put_raw(EVENTS, event)
    # What the snapshot controller says of our copy of a snapshot until its content is there is past.
    copy = await world.kube.get(VOLUME_SNAPSHOTS, JOB)
    missing: JsonObject = {
        **event,
        "metadata": {"name": "missing", "namespace": VELERO},
        "involvedObject": {"kind": "VolumeSnapshot", "name": NAME, "uid": copy.metadata.uid},
        "type": "Warning",
        "reason": "SnapshotContentMissing",
        "message": "VolumeSnapshotContent is missing",
    }
    world.kube.put_raw(EVENTS, missing)
    facts = await world.exposer().diagnose(await world.job())
    assert any("SnapshotContentMissing" in fact for fact in facts)
    assert facts[0].startswith(f"PersistentVolumeClaim {JOB}: ExternalProvisioning: Waiting for a volume")


async def test_the_diagnosis_of_nothing_and_of_an_api_server_that_is_down_are_facts_too() -> None:
    world = World()
    await world.build()
    facts = await world.exposer().diagnose(await world.job())
    assert "Pod velero/backup-x7k2p does not exist" in facts
    world.kube.denied.add(("get", "pods"))
    facts = await world.exposer().diagnose(await world.job())
    assert [fact for fact in facts if fact.startswith("Pod velero/backup-x7k2p cannot be looked at: ")]
