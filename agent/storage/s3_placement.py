"""Storage classes by blob prefix, as `.storageconfig` in the bucket asks for (§1.3).

kopia's own file: whoever keeps packs in a cheaper class wrote it, and every client of the repository has to honour it.
"""

from __future__ import annotations

import msgspec

from agent.base.errors import StorageError
from agent.storage.base import BlobId

PLACEMENT_FILE = ".storageconfig"
MAX_PLACEMENT_LENGTH = 64 << 10
"""Bytes of the file that are believed to be meant."""


class _Option(msgspec.Struct):
    prefix: str = ""
    storage_class: str = msgspec.field(name="storageClass", default="")


class _Parameters(msgspec.Struct):
    options: list[_Option] | None = msgspec.field(name="blobOptions", default=None)


class Placement(msgspec.Struct, frozen=True):
    """(prefix, storage class) in the order of the file."""

    rules: tuple[tuple[str, str], ...] = ()

    def storage_class(self, blob_id: BlobId) -> str | None:
        """Of the first rule that matches, where "" is the bucket's default; None without one."""
        return next((name for prefix, name in self.rules if blob_id.startswith(prefix)), None)


def parse_placement(data: bytes, where: str) -> Placement:
    """The rules of a `.storageconfig`. Raises `StorageError`; `where` names the file in the message."""
    try:
        parameters = msgspec.json.decode(data, type=_Parameters)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StorageError(
            f"{where} cannot be understood: {error}",
            hint='it has the form {"blobOptions":[{"prefix":"p","storageClass":"STANDARD_IA"}]}; correct or delete it',
        ) from error
    return Placement(tuple((option.prefix, option.storage_class) for option in parameters.options or ()))
