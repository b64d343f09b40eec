"""`SnapshotService`: what lies in repositories, looked at and restored by workers; no data of it is kept here.

Each call has a worker of its own, which goes no faster than its caller takes what it says. They are few, beside the
jobs that the node does for Velero.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

from agent.base.errors import ControlBusy, MoverProtocolError, UsageError
from agent.control.contract import Repositories
from agent.control.job_messages import progress_message
from agent.control.paging import decode_token, encode_token, page_size
from agent.control.snapshot_messages import entry_message, snapshot_message, verdict_message
from agent.control.v1 import snapshots_pb2 as pb
from agent.control.v1.snapshots_pb2_grpc import SnapshotServiceServicer
from agent.movers.answers import End, EntryItem, Piece, Sent, SnapshotItem, Verdict
from agent.movers.looking import looking
from agent.movers.spec import (
    ListFolder,
    ListSnapshots,
    Look,
    OnExisting,
    Question,
    ReadFile,
    RestoreResult,
    RestoreTree,
    Verify,
)

_MOST_AT_ONCE = 4
_MOST_ID = 128
_ON_EXISTING = {
    pb.ON_EXISTING_UNSPECIFIED: OnExisting.FAIL,
    pb.ON_EXISTING_FAIL: OnExisting.FAIL,
    pb.ON_EXISTING_SKIP: OnExisting.SKIP,
    pb.ON_EXISTING_OVERWRITE: OnExisting.OVERWRITE,
}


class SnapshotServicer(SnapshotServiceServicer):
    """For the workers of one agent."""

    def __init__(self, repositories: Repositories) -> None:
        self._repositories = repositories
        self._running = 0

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: object) -> pb.ListSnapshotsResponse:
        """Newest first."""
        size = page_size(request.page_size)
        after = None
        if request.page_token:
            place, snapshot, _ = decode_token(request.page_token)
            after = place, snapshot
        question = ListSnapshots(source=request.source, after=after, limit=size + 1)
        found = [item async for item in self._look(request.repository, question) if isinstance(item, SnapshotItem)]
        token = encode_token((*found[size - 1].key, "")) if len(found) > size else ""
        return pb.ListSnapshotsResponse(
            snapshots=[snapshot_message(item) for item in found[:size]], next_page_token=token
        )

    async def BrowseSnapshot(self, request: pb.BrowseSnapshotRequest, context: object) -> pb.BrowseSnapshotResponse:
        """In stored order. A snapshot never changes, so a page begins where the one before has ended."""
        size = page_size(request.page_size)
        skip = decode_token(request.page_token)[0] if request.page_token else 0
        question = ListFolder(
            snapshot=_snapshot(request.snapshot), path=_path(request.path), skip=max(skip, 0), limit=size + 1
        )
        found = [item async for item in self._look(request.repository, question) if isinstance(item, EntryItem)]
        token = encode_token((skip + size, "", "")) if len(found) > size else ""
        return pb.BrowseSnapshotResponse(entries=[entry_message(item) for item in found[:size]], next_page_token=token)

    async def ReadFile(self, request: pb.ReadFileRequest, context: object) -> AsyncIterator[pb.ReadFileResponse]:
        """Piece by piece; at last how many bytes they were, and which, as the worker says."""
        question = ReadFile(snapshot=_snapshot(request.snapshot), path=_path(request.path))
        async with aclosing(self._look(request.repository, question)) as answers:
            async for answer in answers:
                if isinstance(answer, Piece):
                    yield pb.ReadFileResponse(data=answer.data)
                elif isinstance(answer, End):
                    yield pb.ReadFileResponse(end=pb.FileEnd(bytes=answer.size, sha256=answer.sha256))

    async def VerifySnapshot(self, request: pb.VerifySnapshotRequest, context: object) -> pb.VerifySnapshotResponse:
        """Failures are in the response; what raises is a repository that cannot be read at all."""
        percent = request.files_percent if request.HasField("files_percent") else 100.0
        if not 0 <= percent <= 100:
            raise UsageError("files_percent is a number from 0 to 100")
        question = Verify(snapshot=_snapshot(request.snapshot), files_percent=percent)
        found = [answer async for answer in self._look(request.repository, question) if isinstance(answer, Verdict)]
        if len(found) != 1:
            raise MoverProtocolError("the worker did not say what it found")
        return verdict_message(found[0])

    async def RestorePath(
        self, request: pb.RestorePathRequest, context: object
    ) -> AsyncIterator[pb.RestorePathResponse]:
        """Progress, and at the end the result."""
        if request.on_existing not in _ON_EXISTING:
            raise UsageError("on_existing is not known")
        with self._place():
            repositories, asked = self._repositories, request.repository
            target = await repositories.volume(request.pod_namespace, request.pod, request.volume)
            work = RestoreTree(
                snapshot=_snapshot(request.snapshot),
                target=target,
                subpath=_text_path(request.path),
                on_existing=_ON_EXISTING[request.on_existing],
            )
            spec, secrets = await repositories.job(asked.volume_namespace, asked.storage_location, work)
            async with repositories.runner.job(spec, secrets) as running:
                async for progress in running.updates():
                    yield pb.RestorePathResponse(progress=progress_message(progress))
                result = await running.result()
        if not isinstance(result, RestoreResult):
            raise MoverProtocolError("the worker did not say what it restored")
        yield pb.RestorePathResponse(
            result=pb.RestoreResult(
                bytes=result.bytes,
                files=result.files,
                directories=result.directories,
                denied=result.denied,
                warnings=result.warnings,
            )
        )

    async def _look(self, asked: pb.Repository, question: Question) -> AsyncGenerator[Sent, None]:
        with self._place():
            repositories = self._repositories
            work = Look(question=question, listener="")
            spec, secrets = await repositories.job(asked.volume_namespace, asked.storage_location, work)
            async with (
                looking(repositories.runner, spec, secrets, repositories.folder) as look,
                aclosing(look.answers()) as answers,
            ):
                async for answer in answers:
                    yield answer

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._running >= _MOST_AT_ONCE:
            raise ControlBusy(
                f"the agent looks into repositories for {_MOST_AT_ONCE} callers already", hint="try again later"
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


def _snapshot(name: str) -> str:
    if not name or len(name) > _MOST_ID:
        raise UsageError("a snapshot is named by its id, or the start of it")
    return name


def _path(path: bytes) -> tuple[bytes, ...]:
    return tuple(part for part in path.split(b"/") if part)


def _text_path(path: bytes) -> tuple[str, ...]:
    try:
        return tuple(part.decode() for part in _path(path))
    except UnicodeDecodeError:
        raise UsageError(
            "a path that is not UTF-8 cannot be restored by itself", hint="restore the folder that holds it"
        ) from None
