"""What is written onto an object, and what the writer knows of it afterwards."""

from __future__ import annotations

import random

from agent.base.errors import KubeConflict
from agent.controllers.job import with_status
from agent.controllers.status import StatusWriter
from agent.kube.job import Phase
from agent.kube.resource import DATA_UPLOADS
from agent.observe.tracing import Tracing
from tests.unit.controllers.controllers_kit import NODES, Cluster


async def test_an_object_that_the_store_still_shows_as_it_was_before_our_write_is_known_as_such() -> None:
    cluster = Cluster(random.Random(1))
    writer = StatusWriter(cluster.kube, cluster.server, cluster.events, cluster.clock, Tracing())
    seen = await cluster.upload("u")
    written = await writer.write(DATA_UPLOADS, seen, with_status(seen, phase=Phase.ACCEPTED))
    assert writer.is_overwritten(seen)
    assert not writer.is_overwritten(written)
    assert await writer.write(DATA_UPLOADS, written, written) is written
    assert not writer.is_overwritten(written)  # nothing was sent
    writer.forget(seen.metadata.uid)
    assert not writer.is_overwritten(seen)


async def test_an_agent_that_hears_late_of_its_own_write_does_not_write_onto_what_that_replaced() -> None:
    cluster = Cluster(random.Random(1))
    upload = await cluster.upload("u")
    cluster.start_agent(NODES[0])
    conflicts = 0
    patch = cluster.kube.patch

    async def counted(*arguments: object, **options: object) -> object:
        nonlocal conflicts
        try:
            written = await patch(*arguments, **options)  # type: ignore[arg-type]
        except KubeConflict:
            conflicts += 1
            raise
        cluster.controllers[NODES[0]]._loops[0].queue.add(upload.key)  # something wakes it before the watch does
        return written

    cluster.kube.patch = counted  # type: ignore[method-assign,assignment]
    await cluster.run(60)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.COMPLETED
    assert conflicts == 0
    await cluster.stop()
