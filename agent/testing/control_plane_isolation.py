"""A test run apart from its machine: mounts and a loopback of its own, which vanish with the process."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

_NEW_MOUNTS, _NEW_NETWORK = 0x00020000, 0x40000000
_RECURSIVE, _PRIVATE, _SHARED = 0x4000, 0x40000, 0x100000
_SET_FLAGS, _UP = 0x8914, 1


def isolate() -> None:
    """Give this thread and its children mounts and a network of their own.

    Mounts made within are seen everywhere within, as a kubelet's are by an agent with HostToContainer propagation. The
    network is a loopback and nothing else: Velero's server always listens on port 8080, so there is one of it in each
    network; and what has to be downloaded has to be there before. Raises `PermissionError` where that is not allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    done = (
        libc.unshare(_NEW_MOUNTS | _NEW_NETWORK) == 0
        and libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None) == 0
        and libc.mount(b"none", b"/", None, _RECURSIVE | _SHARED, None) == 0
    )
    if not done:
        number = ctypes.get_errno()
        raise PermissionError(number, f"mounts and a network of one's own need root: {os.strerror(number)}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loopback:
        fcntl.ioctl(loopback, _SET_FLAGS, struct.pack("16sh", b"lo", _UP))
