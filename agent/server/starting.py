"""What an agent finds out before it works: its configuration, what is missing, and where it is.

An API server that is away is waited for. Everything else that is wrong is an error, and the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec
import structlog

from agent.base.errors import ConfigurationError, KubeError, KubeUnavailable
from agent.exposers.settings import DAEMON_SET
from agent.kube.backoff import Backoff
from agent.kube.meta import Key
from agent.kube.resource import DAEMON_SETS, NODES
from agent.server.check import place
from agent.server.definitions import InstalledDefinitions
from agent.server.events import Events
from agent.server.health import Health
from agent.server.live_configuration import LiveConfiguration
from agent.server.mounts import MountTable
from agent.server.parts import Basis
from agent.server.repository_settings import cache_limit_mb
from agent.server.self_test import SelfTest, run_self_test

_RETRY = Backoff(first=1.0, cap=30.0)
_log = structlog.stdlib.get_logger(__name__)


class Found(msgspec.Struct, frozen=True):
    """What the start came to."""

    test: SelfTest
    cache_limit_mb: int
    node_labels: Mapping[str, str]
    """Of this node, on which the number of jobs may depend."""


class Starting(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's start."""

    basis: Basis
    config: LiveConfiguration
    definitions: InstalledDefinitions
    events: Events
    health: Health
    mounts: MountTable

    async def find_out(self) -> Found:
        """Load the configuration and look at everything; both are told. Raises `ConfigurationError`, `KubeError`."""
        failures = 0
        for feature in self.basis.flags.unknown_features:
            _log.warning("a feature flag is not known and has no effect", feature=feature)
        if self.basis.flags.without_effect:
            _log.warning("flags of Velero's agent that have no effect here", flags=self.basis.flags.without_effect)
        while True:
            try:
                found = await self._look()
            except KubeUnavailable as error:
                failures += 1
                self.health.state = str(error)
                _log.warning("the API server does not answer", error=str(error), failures=failures)
                delay = _RETRY.delay(failures, self.basis.rng)
                await self.basis.clock.sleep(max(error.retry_after or 0.0, delay))
            else:
                self._report(found.test)
                return found

    async def _look(self) -> Found:
        basis, flags = self.basis, self.basis.flags
        with suppress(KubeError):  # events are told without a uid then
            daemon_set = await basis.api.get(DAEMON_SETS, Key(flags.namespace, DAEMON_SET))
            self.events.is_about(daemon_set.metadata.uid)
        await self.config.load()
        basis.logging.set_level(self.config().log_level)
        cache_mb = await cache_limit_mb(basis.api, flags.namespace, flags.backup_repository_configmap)
        test = await run_self_test(basis.api, self.definitions, place(flags), self.mounts)
        return Found(test, cache_mb, await self._node_labels())

    async def _node_labels(self) -> Mapping[str, str]:
        try:
            return (await self.basis.api.get(NODES, Key("", self.basis.flags.node))).metadata.labels
        except KubeUnavailable:
            raise
        except KubeError as error:
            _log.warning("the labels of this node are not known", error=str(error))
            return {}

    def _report(self, test: SelfTest) -> None:
        _log.info("self-test", findings=[f"{one.verdict}: {one.check}: {one.text}" for one in test.findings])
        for problem in test.problems:
            _log.warning("something is missing", check=problem.check, verdict=problem.verdict, found=problem.text)
        text = "; ".join(f"{one.check}: {one.text}" for one in test.problems)
        if test.is_fatal:
            self.events.tell("SelfTestFailed", text, True)
            raise ConfigurationError(
                f"the agent cannot work here: {text}", hint="`lighter agent run --check` shows all"
            )
        if text:
            self.events.tell("SelfTestFoundLess", text, True)
        else:
            self.events.tell("SelfTestPassed", "nothing is missing")
