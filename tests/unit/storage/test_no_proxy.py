"""Hosts that are spoken to past a proxy, as clusters name them."""

from __future__ import annotations

import pytest

from agent.storage.no_proxy import is_excepted


@pytest.mark.parametrize(
    ("no_proxy", "host", "excepted"),
    [
        ("", "store", False),
        ("*", "store", True),
        ("localhost, .svc,.cluster.local", "minio.shop.svc", True),
        ("localhost, .svc,.cluster.local", "minio.shop.svc.example", False),
        ("example.com", "s3.EXAMPLE.com", True),
        ("*.example.com", "s3.example.com", True),
        ("ample.com", "s3.example.com", False),
        ("10.0.0.0/8", "10.96.3.4", True),
        ("10.96.3.4/8", "10.1.1.1", True),
        ("10.0.0.0/8", "192.168.1.1", False),
        ("10.0.0.0/8", "ten.example", False),
        ("192.168.1.1", "192.168.1.1", True),
        ("fd00::/8", "fd00::7", True),
        ("nonsense/64,10.0.0.0/99", "10.0.0.1", False),
    ],
)
def test_names_domains_addresses_and_networks_are_excepted(no_proxy: str, host: str, excepted: bool) -> None:
    assert is_excepted({"NO_PROXY": no_proxy}, host) is excepted
