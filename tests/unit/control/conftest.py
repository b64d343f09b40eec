"""Agents at an address, with a fresh world each.

All tests here share an event loop: gRPC hears late of calls that were broken off, and loses the events of other loops
when theirs is closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.unit.control.nodes_kit import ApiServer, api_server
from tests.unit.control.tls_kit import Authority, TlsAgent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if pytest_asyncio.is_async_test(item) and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("ours")


@pytest.fixture
def by_token(tmp_path: Path, authority: Authority) -> TlsAgent:
    return TlsAgent(tmp_path, authority, mutual=False)


@pytest.fixture
def by_certificate(tmp_path: Path, authority: Authority) -> TlsAgent:
    return TlsAgent(tmp_path, authority, mutual=True)


@pytest_asyncio.fixture(loop_scope="session")
async def api() -> AsyncIterator[ApiServer]:
    async with api_server() as server:
        yield server
