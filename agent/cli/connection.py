"""Which repository a command works on: options, environment, or what `lighter connect` remembered.

Precedence: option, environment (`LIGHTER_REPO`, `LIGHTER_PASSWORD_FILE`, `LIGHTER_PASSWORD`), remembered connection,
and for the password a prompt on a terminal. The password itself is never remembered and never taken from argv.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import click
import msgspec

from agent.base.errors import UsageError
from agent.cli.console import warn
from agent.cli.identity import default_identity
from agent.cli.options import size_value
from agent.cli.run import importing, run

if TYPE_CHECKING:
    from agent.repository.repository import Repository
    from agent.storage.meter import MeteredStorage

_R = TypeVar("_R")


class Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The connection file: no secrets, only where they are."""

    repo: str
    password_file: str = ""
    cache_dir: str = ""


@dataclass(slots=True)
class Connection:
    """Everything needed to open a repository; the password is read when it is needed first."""

    url: str
    password_file: str
    cache_dir: Path | None
    cache_limit: int
    """Bytes."""
    upload_limit: int
    download_limit: int
    """Bytes per second, 0 for none."""
    parallel_requests: int
    _password: str | None = field(default=None, repr=False)

    @property
    def network(self) -> bool:
        """Whether the store is reached over sockets."""
        return not self.url.startswith("file:")

    def run(self, work: Coroutine[object, object, _R], *, interrupt: Callable[[], bool] | None = None) -> _R:
        """Run a command's work on an event loop of its own; a password that has to be asked for is asked for before."""
        try:
            self.password()
        except BaseException:
            work.close()
            raise
        return run(work, network=self.network, interrupt=interrupt)

    def password(self, *, confirm: bool = False) -> str:
        """The repository password, outer white space trimmed as kopia's command line does (§13.3).

        `confirm` has it entered twice, when it is entered at all.
        """
        if self._password is None:
            self._password = self._read_password(confirm)
        return self._password

    def _read_password(self, confirm: bool) -> str:
        if self.password_file:
            try:
                return Path(self.password_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"cannot read the password file {self.password_file}: {error}") from error
        if "LIGHTER_PASSWORD" in os.environ:
            return os.environ["LIGHTER_PASSWORD"].strip()
        if sys.stdin.isatty():
            entered: str = click.prompt("Repository password", hide_input=True, confirmation_prompt=confirm, err=True)
            return entered.strip()
        raise UsageError("no password given", hint="use --password-file, LIGHTER_PASSWORD_FILE or LIGHTER_PASSWORD")

    @asynccontextmanager
    async def storage(self, *, create: bool = False) -> AsyncIterator[MeteredStorage]:
        """The store behind the URL, closed at the end."""
        from agent.storage.limit import Limits
        from agent.storage.open import StorageOptions, open_storage

        options = StorageOptions(
            limits=Limits(
                upload_bytes=self.upload_limit,
                download_bytes=self.download_limit,
                concurrency=self.parallel_requests,
            )
        )
        storage = await open_storage(self.url, create=create, options=options)
        try:
            yield storage
        finally:
            await storage.close()

    @asynccontextmanager
    async def repository_in(
        self,
        storage: MeteredStorage,
        *,
        read_only: bool = True,
        ignore_damaged: bool = False,
        needs: Sequence[str] = (),
    ) -> AsyncIterator[Repository]:
        """The repository in an open store; `ignore_damaged` finds what can be found among damaged manifests.

        What is needed to work with it, and the modules that the caller `needs` besides, are imported while its key is
        derived on another core: one takes as long as the other.
        """
        from agent.repository.format_manager import FormatManager, cache_folder

        with importing():
            loading = FormatManager.load(storage, self.password(), cache_dir=cache_folder(self.cache_dir, storage))
            modules = ("agent.repository.repository", *needs)
            manager, _ = await asyncio.gather(loading, asyncio.to_thread(_import, modules))

        from agent.repository.repository import OpenOptions, Repository

        identity = default_identity()
        options = OpenOptions(
            cache_dir=self.cache_dir,
            index_cache_bytes=self.cache_limit // 2,
            pack_cache_bytes=self.cache_limit // 2,
            read_only=read_only,
            ignore_damaged_manifests=ignore_damaged,
            username=identity.username,
            hostname=identity.hostname,
        )
        async with Repository.open(storage, self.password(), options=options, manager=manager) as repository:
            for feature in repository.format.unknown_features():
                warn(f"the repository asks for a feature that this release does not know: {feature}")
            yield repository

    @asynccontextmanager
    async def repository(self, *, read_only: bool = True, ignore_damaged: bool = False) -> AsyncIterator[Repository]:
        """Store and repository in one."""
        async with (
            self.storage() as storage,
            self.repository_in(storage, read_only=read_only, ignore_damaged=ignore_damaged) as repository,
        ):
            yield repository


def _import(modules: Sequence[str]) -> None:
    for name in modules:
        importlib.import_module(name)


def config_file() -> Path:
    """Where `lighter connect` remembers the connection."""
    if "LIGHTER_CONFIG" in os.environ:
        return Path(os.environ["LIGHTER_CONFIG"])
    from platformdirs import user_config_path

    return user_config_path("lighterage") / "connection.json"


def remembered() -> Remembered | None:
    """The remembered connection, if there is one."""
    path = config_file()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Remembered)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"cannot read the connection file {path}: {error}", hint="run `lighter connect` again"
        ) from error


def as_url(text: str) -> str:
    """A URL as it is, a path of a folder as the URL of that folder."""
    return text if "://" in text or text.startswith("file:") else f"file://{quote(os.path.abspath(text))}"


def repository_options(command: Callable[..., _R]) -> Callable[..., _R]:
    """The options every command that opens a repository has; the command gets one `connection` argument instead."""

    @click.option(
        "--repo", "-r", envvar="LIGHTER_REPO", metavar="URL", help="A folder, file:///abs/path or s3://bucket/prefix?…"
    )
    @click.option(
        "--password-file", "-p", envvar="LIGHTER_PASSWORD_FILE", metavar="FILE", help="File with the password."
    )
    @click.option("--cache-dir", envvar="LIGHTER_CACHE_DIR", type=Path, help="Where indexes and metadata are cached.")
    @click.option("--no-cache", is_flag=True, help="Keep no cache beyond this command.")
    @click.option(
        "--cache-limit",
        default=str(5 << 30),
        show_default="5GiB",
        callback=size_value,
        metavar="SIZE",
        help="Its size limit.",
    )
    @click.option("--limit-upload", callback=size_value, metavar="RATE", help="Bytes a second to the store, e.g. 50MB.")
    @click.option("--limit-download", callback=size_value, metavar="RATE", help="Bytes a second from the store.")
    @click.option("--requests", "parallel_requests", default=16, show_default=True, help="Store requests at once.")
    def with_connection(
        *,
        repo: str | None,
        password_file: str | None,
        cache_dir: Path | None,
        no_cache: bool,
        cache_limit: int,
        limit_upload: int,
        limit_download: int,
        parallel_requests: int,
        **others: object,
    ) -> _R:
        known = remembered() if repo is None else None
        url = repo or (known.repo if known else "")
        if not url:
            raise UsageError(
                "no repository given", hint="use --repo URL, set LIGHTER_REPO, or run `lighter connect` once"
            )
        if password_file is None and known is not None and "LIGHTER_PASSWORD" not in os.environ:
            password_file = known.password_file
        if cache_dir is None and not no_cache:
            from platformdirs import user_cache_path

            cache_dir = Path(known.cache_dir) if known and known.cache_dir else user_cache_path("lighterage")
        connection = Connection(
            url=as_url(url),
            password_file=password_file or "",
            cache_dir=None if no_cache else cache_dir,
            cache_limit=cache_limit,
            upload_limit=limit_upload,
            download_limit=limit_download,
            parallel_requests=parallel_requests,
        )
        return command(connection=connection, **others)

    with_connection.__name__ = command.__name__
    with_connection.__doc__ = command.__doc__
    params = getattr(command, "__click_params__", [])
    own = getattr(with_connection, "__click_params__", [])
    with_connection.__click_params__ = own + params  # type: ignore[attr-defined]
    return with_connection
