"""The policy that Velero keeps for each of its sources (§10.5).

It makes kopia's own tools leave Velero's snapshots alone: nothing expires, nothing is scheduled, nothing compressed.
The stock agent writes it before each backup; we write it where it is missing or says something else, so that repeated
backups leave no trail of equal manifests.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from agent.base.errors import InvalidPolicy
from agent.repository import gojson
from agent.repository.manifest_writer import JsonValue
from agent.repository.repository import Repository
from agent.repository.writer import RepositoryWriter
from agent.snapshots.model import Source
from agent.snapshots.policy import Policy, parse_policy, policy_labels

_KEEP = 2_147_483_647
_PARTS_ABOVE = 2 << 30


def velero_policy(parallel: int) -> Mapping[str, JsonValue]:
    """As the stock agent writes it, for so many threads."""
    return {
        "retention": dict.fromkeys(
            ("keepLatest", "keepHourly", "keepDaily", "keepWeekly", "keepMonthly", "keepAnnual"), _KEEP
        ),
        "files": {},
        "errorHandling": {"ignoreUnknownTypes": True},
        "scheduling": {"manual": True},
        "compression": {"compressorName": "none"},
        "metadataCompression": {},
        "splitter": {},
        "actions": {},
        "osSnapshots": {"volumeShadowCopy": {}},
        "logging": {"directories": {}, "entries": {}},
        "upload": {"maxParallelFileReads": parallel, "parallelUploadAboveSize": _PARTS_ABOVE},
    }


async def set_velero_policy(repo: Repository, writer: RepositoryWriter, source: Source, *, parallel: int = 0) -> bool:
    """Have it in the repository, in place of any other policy of exactly this source; whether it had to be written.

    `parallel` is the number of threads asked for, 0 for one a processor. Flushed when it returns.
    """
    wanted = velero_policy(parallel or os.cpu_count() or 1)
    labels = policy_labels(source)
    found = [one for one in repo.manifests.find(labels) if one.labels == labels]
    if len(found) == 1 and _parsed(bytes(found[0].data)) == _parsed(gojson.encode(wanted)):
        return False
    await writer.put_manifest(labels, wanted)
    for manifest in found:
        await writer.delete_manifest(manifest.id)
    await writer.flush()
    await repo.manifests.load()
    return True


def _parsed(data: bytes) -> Policy | None:
    """None for one that cannot be understood: it is replaced."""
    try:
        return parse_policy(data)
    except InvalidPolicy:
        return None
