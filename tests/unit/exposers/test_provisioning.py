"""A claim that gets no volume: what is told of it, and whether it may still get one."""

from __future__ import annotations

import random

import pytest

from agent.base.errors import ProvisioningFailed
from agent.exposers.contract import Waiting
from agent.exposers.provisioning import why_unprovisioned
from agent.kube.codec import JsonObject
from agent.kube.meta import Key
from agent.kube.resource import EVENTS, PERSISTENT_VOLUME_CLAIMS
from agent.kube.times import time_from_ns
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube

KEY = Key("velero", "data")
UID = "4e7c0d5e-0000-4000-8000-000000000001"
REFUSED = "Volume provisioning failed with infeasible error. rpc error: code = InvalidArgument desc = no such pool"
FULL = "rpc error: code = ResourceExhausted desc = no room in the pool"
NOT_READY = "error getting handle for DataSource: snapshot data is not Ready"


class Provisioner:
    """A claim, and what is said of it."""

    def __init__(self) -> None:
        self.clock = VirtualClock(jump=False)
        self.kube = FakeKube(self.clock, random.Random(1))
        self._said = 0

        claim: JsonObject = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": KEY.name, "namespace": KEY.namespace, "uid": UID, "creationTimestamp": self._now()},
            "spec": {},
            "status": {"phase": "Pending"},
        }
        self.kube.put_raw(PERSISTENT_VOLUME_CLAIMS, claim)
        self.clock.advance(10)

    def says(self, message: str, *, reason: str = "ProvisioningFailed", ago: float = 0.0) -> None:
        """Now, and since so many seconds."""
        self._said += 1
        event: JsonObject = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"said-{self._said}", "namespace": KEY.namespace},
            "involvedObject": {"kind": "PersistentVolumeClaim", "name": KEY.name, "uid": UID},
            "type": "Warning" if reason == "ProvisioningFailed" else "Normal",
            "reason": reason,
            "message": message,
            "firstTimestamp": self._now(-ago),
            "lastTimestamp": self._now(),
        }
        self.kube.put_raw(EVENTS, event)

    async def why(self) -> Waiting | None:
        claim = await self.kube.get(PERSISTENT_VOLUME_CLAIMS, KEY)
        return await why_unprovisioned(self.kube, self.clock, claim)

    def _now(self, offset: float = 0.0) -> str:
        return time_from_ns(self.clock.now_ns() + round(offset * 1e9)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
async def provisioner() -> Provisioner:
    return Provisioner()


async def test_the_last_failure_is_told_although_others_say_that_they_wait(provisioner: Provisioner) -> None:
    provisioner.says(FULL)
    provisioner.clock.advance(5)
    provisioner.says("External provisioner is provisioning volume", reason="Provisioning")
    provisioner.says("Waiting for a volume to be created", reason="ExternalProvisioning")
    assert await provisioner.why() == Waiting(f"the claim velero/data is Pending: ProvisioningFailed: {FULL}")


async def test_without_a_failure_nothing_is_told(provisioner: Provisioner) -> None:
    provisioner.says("Waiting for a volume to be created", reason="ExternalProvisioning")
    assert await provisioner.why() is None


async def test_a_request_that_the_storage_finds_wrong_is_definite_after_half_a_minute(provisioner: Provisioner) -> None:
    provisioner.says(NOT_READY)
    provisioner.says(REFUSED)  # in the same second: which of them is the last one cannot be seen
    provisioner.clock.advance(29)
    assert await provisioner.why() == Waiting(f"the claim velero/data is Pending: ProvisioningFailed: {REFUSED}")
    provisioner.clock.advance(1)
    with pytest.raises(ProvisioningFailed, match=r"velero/data gets no volume: .* no such pool"):
        await provisioner.why()


async def test_a_request_that_is_refused_in_ever_other_words_is_definite_too(provisioner: Provisioner) -> None:
    for number in range(4):
        provisioner.says(f"{REFUSED}, request id {number}")
        provisioner.clock.advance(10)
    with pytest.raises(ProvisioningFailed):
        await provisioner.why()


async def test_a_storage_that_has_no_room_may_heal_however_long_it_says_so(provisioner: Provisioner) -> None:
    provisioner.clock.advance(1_000)
    provisioner.says(FULL, ago=900)
    assert isinstance(await provisioner.why(), Waiting)


async def test_a_refusal_after_which_something_else_went_wrong_is_not_the_last_word(provisioner: Provisioner) -> None:
    provisioner.says(REFUSED)
    provisioner.clock.advance(40)
    provisioner.says(FULL)
    assert await provisioner.why() == Waiting(f"the claim velero/data is Pending: ProvisioningFailed: {FULL}")
