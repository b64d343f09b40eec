"""Counters of a running backup, and the switch that ends it.

Threads of the upload add to them; a progress bar, an agent's status or a rate limit reads them from another thread at
any time, cheaply and without waiting. A single read may lie a moment behind; nothing is ever lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from agent.base.errors import CanceledError
from agent.base.hold import Hold

_HELD_LOOK = 0.2


class Cancellation:
    """Asked for once, seen everywhere within a second. Thread-safe.

    Work that asks stands still while `hold` is closed, unless it was canceled.
    """

    def __init__(self, hold: Hold | None = None) -> None:
        self._event = threading.Event()
        self._hold = hold or Hold()
        self._abandoned = False
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """End the work: what is complete so far is kept, nothing new is begun."""
        with self._lock:
            self._event.set()
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()

    def abandon(self) -> None:
        """End the work and keep nothing of it but checkpoints."""
        self._abandoned = True
        self.cancel()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this once, in the thread that asks for the end, or at once when somebody has."""
        with self._lock:
            if not self._event.is_set():
                self._listeners.append(listener)
                return
        listener()

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for what there is."""
        return self._abandoned

    @property
    def is_canceled(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def check(self) -> None:
        """Thread side: wait while the hold is closed. Raise `CanceledError` when somebody asked for the end."""
        while self._hold.is_closed and not self._event.is_set():
            self._hold.wait(_HELD_LOOK)
        if self._event.is_set():
            raise CanceledError("the backup was canceled")


class Totals(msgspec.Struct, frozen=True):
    """What the whole run will probably see."""

    files: int
    bytes: int


class UploadProgress:
    """What a backup has done so far. Counters only grow; every public attribute may be read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.files = 0
        """Files and symbolic links that are done, taken over or not."""
        self.directories = 0
        self.bytes_read = 0
        """From the volume."""
        self.bytes_hashed = 0
        """File data that went into the repository, new there or not; synthesised zeros included."""
        self.files_cached = 0
        self.bytes_cached = 0
        """Sizes of files that were taken over from the parent unread."""
        self.special = 0
        """Sockets, pipes and devices, which are left out."""
        self.excluded_files = 0
        self.excluded_directories = 0
        self.errors = 0
        self.warnings = 0
        self.current = ""
        """Path below the source of what was begun last."""
        self.totals: Totals | None = None
        """An estimate, once there is one."""

    def read(self, count: int) -> None:
        """So many bytes were read."""
        with self._lock:
            self.bytes_read += count

    def hashed(self, count: int) -> None:
        """So many bytes went into the repository."""
        with self._lock:
            self.bytes_hashed += count

    def done(self, files: int, *, cached: int = 0, cached_bytes: int = 0) -> None:
        """So many files are done, `cached` of them unread."""
        with self._lock:
            self.files += files
            self.files_cached += cached
            self.bytes_cached += cached_bytes
