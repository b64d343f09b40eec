"""Agents at an address, with a fresh world each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.control.nodes_kit import ApiServer, api_server
from tests.unit.control.tls_kit import Authority, TlsAgent


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("ours")


@pytest.fixture
def by_token(tmp_path: Path, authority: Authority) -> TlsAgent:
    return TlsAgent(tmp_path, authority, mutual=False)


@pytest.fixture
def by_certificate(tmp_path: Path, authority: Authority) -> TlsAgent:
    return TlsAgent(tmp_path, authority, mutual=True)


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with api_server() as server:
        yield server
