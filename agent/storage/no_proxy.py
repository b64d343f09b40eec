"""Which hosts are spoken to past a proxy: NO_PROXY as Go's programs read it, Velero's own agent among them.

Python's libraries know names and domains in it only. Clusters name networks there, those of their services and pods.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping


def is_excepted(environ: Mapping[str, str], host: str) -> bool:
    """Whether an item is about `host`: everything, its name or address, a domain or a network that it is in."""
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return any(_covers(item.strip().lower(), host.lower()) for item in no_proxy.split(","))


def _covers(item: str, host: str) -> bool:
    if not item:
        return False
    if item == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        domain = item.removeprefix("*").lstrip(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
    try:
        return address in ipaddress.ip_network(item, strict=False)
    except ValueError:
        return False
