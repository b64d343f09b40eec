"""What the events of a claim say of the volume that it does not have: that it may still come, or that it never will.

A provisioner tells of its failures nowhere else, and tries on for ever. Between two of them it and Kubernetes say that
a volume is waited for, which nobody needs to be told: the last failure counts until there is a volume.
"""

from __future__ import annotations

import re

from agent.base.clock import Clock
from agent.base.errors import ProvisioningFailed
from agent.exposers.contract import Waiting
from agent.exposers.events import first_said, last_said, warnings_of, words_of
from agent.kube.api import KubeApi
from agent.kube.cluster import Event
from agent.kube.times import ns_from_time
from agent.kube.volumes import PersistentVolumeClaim

_FAILED = "ProvisioningFailed"
_DEFINITE = re.compile(r"code = (InvalidArgument|OutOfRange|NotFound|AlreadyExists|Unimplemented)\b")
"""Answers of a driver that blame what it was asked for; provisioners call them infeasible, and try again after minutes.
All others heal: pools get room, rights are given, and many drivers call everything `Internal`."""
_PERSISTS_SECONDS = 30.0
"""How long such an answer has to be the last word."""


async def why_unprovisioned(api: KubeApi, clock: Clock, claim: PersistentVolumeClaim) -> Waiting | None:
    """What keeps a claim from getting its volume, in the cluster's words; None when nobody has complained.

    Raises `ProvisioningFailed` where trying again cannot help.
    """
    warnings = await warnings_of(api, clock, claim)
    if not warnings:
        return None
    refusal = _refusal([event for event in warnings if event.reason == _FAILED])
    words = words_of(refusal or warnings[0])
    if refusal is not None and (clock.now_ns() - ns_from_time(first_said(refusal))) / 1e9 >= _PERSISTS_SECONDS:
        hint = "that is what the storage driver says: compare the claim with its storage class"
        raise ProvisioningFailed(f"the claim {claim.key} gets no volume: {words}", hint=hint)
    return Waiting(f"the claim {claim.key} is {claim.status.phase or 'new'}: {words}")


def _refusal(failures: list[Event]) -> Event | None:
    """The definite answer that is the last one, of several in one second any; that which was told first of its like."""
    definite = [event for event in failures if _DEFINITE.search(event.message)]
    if not definite or last_said(definite[0]) < last_said(failures[0]):
        return None
    return min(definite, key=first_said)
