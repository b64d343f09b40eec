"""What the installed definitions know is read from them, whatever the server's version (contract §10.2)."""

from __future__ import annotations

import pytest

from agent.base.errors import KubeForbidden
from agent.controllers.pod_volume_backup import canceled_phase
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.resource import CUSTOM_RESOURCE_DEFINITIONS
from agent.server.definitions import InstalledDefinitions
from tests.unit.server.server_kit import World

BACKUPS = "podvolumebackups"


async def test_a_server_of_1_16_knows_four_phases_of_pod_volumes_and_no_cancel() -> None:
    world, definitions = World(), InstalledDefinitions()
    world.install(16)
    await definitions.refresh(world.api)
    known = {phase for phase in Phase if definitions.has_phase(BACKUPS, phase)}
    assert known == {Phase.EMPTY, Phase.NEW, Phase.IN_PROGRESS, Phase.COMPLETED, Phase.FAILED}
    assert definitions.has_phase("datauploads", Phase.ACCEPTED)
    assert not definitions.has_field(BACKUPS, "spec.cancel")
    assert definitions.problems == ()


async def test_a_server_of_1_18_knows_all_phases_and_drops_unknown_fields() -> None:
    world, definitions = World(), InstalledDefinitions()
    world.install(18)
    await definitions.refresh(world.api)
    assert all(definitions.has_phase(BACKUPS, phase) for phase in Phase)
    assert definitions.has_field(BACKUPS, "spec.cancel")
    assert definitions.has_field("podvolumerestores", "status.node")
    assert not definitions.has_field(BACKUPS, "status.node")
    assert not definitions.has_field(BACKUPS, "spec.cancel.deeper")


@pytest.mark.parametrize(
    ("minor", "phase"), [(16, Phase.FAILED), (17, Phase.FAILED), (18, Phase.FAILED), (19, Phase.CANCELED)]
)
async def test_a_canceled_pod_volume_backup_ends_as_its_server_needs_it(minor: int, phase: Phase) -> None:
    world, definitions = World(), InstalledDefinitions()
    world.install(minor)
    await definitions.refresh(world.api)
    assert canceled_phase(definitions) is phase


async def test_a_field_that_keeps_what_it_does_not_know_has_everything_below() -> None:
    world, definitions = World(), InstalledDefinitions()
    world.install(18)
    value = world.api.raw(CUSTOM_RESOURCE_DEFINITIONS, Key("", "datauploads.velero.io"))
    versions = value["spec"]["versions"]  # type: ignore[index,call-overload]
    versions[0]["schema"]["openAPIV3Schema"] = {  # type: ignore[index,call-overload]
        "properties": {"status": {"x-kubernetes-preserve-unknown-fields": True}}
    }
    world.api.put_raw(CUSTOM_RESOURCE_DEFINITIONS, value)
    await definitions.refresh(world.api)
    assert definitions.has_field("datauploads", "status.anything")
    assert definitions.has_phase("datauploads", Phase.ACCEPTED)


async def test_definitions_that_may_not_be_read_are_taken_as_of_a_known_release_and_that_is_said() -> None:
    world, definitions = World(), InstalledDefinitions()
    world.api.denied.add(("get", CUSTOM_RESOURCE_DEFINITIONS.name))
    await definitions.refresh(world.api)
    assert len(definitions.problems) == 4
    assert not any(problem.is_missing for problem in definitions.problems)
    assert definitions.has_phase(BACKUPS, Phase.ACCEPTED)
    assert definitions.has_field("datauploads", "status.incrementalBytes")
    assert not definitions.has_field("datauploads", "spec.parentSnapshot")


async def test_a_kind_that_is_not_installed_is_named() -> None:
    world, definitions = World(), InstalledDefinitions()
    await definitions.refresh(world.api)
    assert {problem.plural for problem in definitions.problems if problem.is_missing} >= {"datauploads", BACKUPS}


async def test_what_was_read_once_stays_known_when_it_cannot_be_read_again() -> None:
    world, definitions = World(), InstalledDefinitions()
    world.install(16)
    await definitions.refresh(world.api)
    world.api.fail("get", CUSTOM_RESOURCE_DEFINITIONS.name, KubeForbidden("no"), times=4)
    await definitions.refresh(world.api)
    assert not definitions.has_phase(BACKUPS, Phase.ACCEPTED)
    assert len(definitions.problems) == 4
