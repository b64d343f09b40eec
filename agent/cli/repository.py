"""`lighter repository`: create, status, verify, repair-index, change-password."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import msgspec

from agent.base.errors import UsageError
from agent.cli.connection import Connection, repository_options
from agent.cli.console import (
    duration_text,
    json_result,
    note,
    plural,
    print_facts,
    print_json,
    print_table,
    say,
    size_text,
)
from agent.cli.options import duration_value, size_value
from agent.cli.repository_repair import repair_index_command
from agent.cli.repository_verify import verify_command

if TYPE_CHECKING:
    from agent.repository.create import CreateOptions
    from agent.repository.format_blob import RepositoryFormat
    from agent.repository.repository import Repository

_VELERO_OWNER = "default@default"


class FormatInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a repository is made of."""

    unique_id: Annotated[str, msgspec.Meta(description="what tells this repository from others, hex")] = msgspec.field(
        name="uniqueID"
    )
    format_version: Annotated[int, msgspec.Meta(description="1, 2 or 3")]
    hash: str
    encryption: str
    splitter: str
    key_derivation: Annotated[str, msgspec.Meta(description="how the password becomes a key")]
    ecc: Annotated[str, msgspec.Meta(description="error correction, empty for none")]
    ecc_overhead_percent: int
    pack_size: Annotated[int, msgspec.Meta(description="bytes; a pack is closed when it reaches this")]
    index_version: int
    epochs: Annotated[bool, msgspec.Meta(description="whether indexes are kept in epochs")]
    password_can_change: bool
    object_lock_mode: Annotated[str, msgspec.Meta(description="`GOVERNANCE`, `COMPLIANCE` or empty")]
    object_lock_seconds: Annotated[int, msgspec.Meta(description="how long each blob is locked")]


class CreateResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The repository that was created."""

    location: str
    format: FormatInfo
    maintenance_owner: Annotated[str, msgspec.Meta(description="who has to run maintenance, `user@host`")]
    for_velero: bool


class BlobKind(msgspec.Struct, frozen=True):
    """Blobs of one kind."""

    kind: Annotated[str, msgspec.Meta(description="`data`, `metadata`, `index`, `session`, `log`, `other`")]
    count: int
    bytes: int


class StatusResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a repository stands."""

    location: str
    format: FormatInfo
    contents: Annotated[int, msgspec.Meta(description="contents in the index, deleted ones included")]
    index_blobs: Annotated[int, msgspec.Meta(description="index blobs in force")]
    manifests: Annotated[int, msgspec.Meta(description="manifests of any type")]
    snapshots: int
    sources: int
    maintenance_owner: Annotated[str, msgspec.Meta(description="`user@host`, empty when nobody runs maintenance")]
    unknown_features: Annotated[list[str], msgspec.Meta(description="optional features that this release lacks")]
    blobs: Annotated[list[BlobKind] | None, msgspec.Meta(description="with `--blobs`, else null")]
    bytes: Annotated[int | None, msgspec.Meta(description="of all blobs; with `--blobs`, else null")]


class PasswordResult(msgspec.Struct, frozen=True, rename="camel"):
    """The password was changed."""

    location: str
    changed: bool


@click.group(
    epilog="\b\nExamples:\n  lighter repository create --repo file:///backup --password-file ~/.pw\n"
    "  lighter repository status --json",
)
def repository() -> None:
    """Create, inspect, verify and repair repositories."""


def _format_info(repository_format: RepositoryFormat, mode: str, period_ns: int) -> FormatInfo:
    return FormatInfo(
        unique_id=repository_format.unique_id.hex(),
        format_version=repository_format.version,
        hash=repository_format.hash,
        encryption=repository_format.encryption,
        splitter=repository_format.splitter,
        key_derivation=repository_format.key_algorithm,
        ecc=repository_format.ecc,
        ecc_overhead_percent=repository_format.ecc_overhead_percent,
        pack_size=repository_format.max_pack_size,
        index_version=repository_format.index_version,
        epochs=repository_format.epoch_parameters.enabled,
        password_can_change=repository_format.enable_password_change,
        object_lock_mode=mode,
        object_lock_seconds=period_ns // 1_000_000_000,
    )


def _format_facts(info: FormatInfo) -> list[tuple[str, str]]:
    ecc = f"{info.ecc}, {info.ecc_overhead_percent} %" if info.ecc else "none"
    lock = f"{info.object_lock_mode} for {duration_text(info.object_lock_seconds)}" if info.object_lock_mode else "none"
    return [
        ("Unique id", info.unique_id),
        ("Format version", f"{info.format_version} (index version {info.index_version})"),
        ("Hash", info.hash),
        ("Encryption", info.encryption),
        ("Splitter", info.splitter),
        ("Key derivation", info.key_derivation),
        ("Error correction", ecc),
        ("Pack size", size_text(info.pack_size)),
        ("Object lock", lock),
        ("Password", "can be changed" if info.password_can_change else "can never be changed"),
    ]


@repository.command(
    epilog="\b\nExamples:\n"
    "  lighter repository create --repo file:///backup --password-file ~/.pw\n"
    "  lighter repository create --repo 's3://bucket/kopia/shop/?region=eu-central-1' -p ~/.pw --for-velero\n"
    "  lighter repository create --repo file:///backup -p ~/.pw --hash BLAKE3-256 --splitter FIXED-1M\n"
)
@json_result(CreateResult)
@click.option("--format-version", type=click.IntRange(1, 3), help="Version of the format.  [default: 3]")
@click.option("--hash", "hash_name", metavar="NAME", help="Hash that names contents.  [default: BLAKE2B-256-128]")
@click.option("--encryption", metavar="NAME", help="Cipher.  [default: AES256-GCM-HMAC-SHA256]")
@click.option("--splitter", metavar="NAME", help="Where files are cut.  [default: DYNAMIC-4M-BUZHASH]")
@click.option("--ecc", metavar="NAME", default="", help="Error correction: REED-SOLOMON-CRC32.  [default: none]")
@click.option("--ecc-overhead", type=click.IntRange(0, 100), default=0, metavar="PERCENT", help="Bytes spent on it.")
@click.option("--pack-size", callback=size_value, metavar="SIZE", help="10 to 120 MiB.  [default: 20MiB]")
@click.option("--key-derivation", metavar="NAME", help="How the password becomes a key.  [default: scrypt-65536-8-1]")
@click.option(
    "--object-lock-mode",
    type=click.Choice(["GOVERNANCE", "COMPLIANCE"], case_sensitive=False),
    help="Have the store lock every blob.",
)
@click.option("--object-lock-period", callback=duration_value, metavar="SPAN", help="For how long, e.g. 30d.")
@click.option("--maintenance-owner", metavar="USER@HOST", help="Who runs maintenance.  [default: default@default]")
@click.option("--for-velero", is_flag=True, help="Mark it as initialised for Velero 1.18 and newer.")
@repository_options
def create(
    connection: Connection,
    as_json: bool,
    format_version: int | None,
    hash_name: str | None,
    encryption: str | None,
    splitter: str | None,
    ecc: str,
    ecc_overhead: int,
    pack_size: int,
    key_derivation: str | None,
    object_lock_mode: str | None,
    object_lock_period: float | None,
    maintenance_owner: str | None,
    for_velero: bool,
) -> None:
    """Create a repository in an empty place. The defaults are Velero's.

    Algorithms are named as kopia names them; `lighter benchmark` lists and measures them.
    """
    from agent.repository.create import CreateOptions
    from agent.repository.format_blob import ObjectLock
    from agent.repository.repository import Repository

    if (object_lock_mode is None) != (object_lock_period is None):
        raise UsageError("--object-lock-mode and --object-lock-period belong together")
    base = CreateOptions()
    lock = None
    if object_lock_mode is not None and object_lock_period is not None:
        lock = ObjectLock(object_lock_mode.upper(), int(object_lock_period) * 1_000_000_000)
    options = CreateOptions(
        format_version=format_version or base.format_version,
        hash=hash_name or base.hash,
        encryption=encryption or base.encryption,
        splitter=splitter or base.splitter,
        key_algorithm=key_derivation or base.key_algorithm,
        ecc=ecc,
        ecc_overhead_percent=ecc_overhead,
        max_pack_size=pack_size or base.max_pack_size,
        object_lock=lock,
        maintenance_owner=maintenance_owner or base.maintenance_owner,
        for_velero=for_velero,
    )
    password = connection.password(confirm=True)

    async def work() -> tuple[str, RepositoryFormat]:
        async with connection.storage(create=True) as storage:
            return storage.location, await Repository.create(storage, password, options=options)

    location, created = connection.run(work())
    _report_created(location, created, options, as_json)


def _report_created(location: str, created: RepositoryFormat, options: CreateOptions, as_json: bool) -> None:
    lock = options.object_lock
    info = _format_info(created, lock.mode if lock else "", lock.period_ns if lock else 0)
    owner = options.maintenance_owner
    if as_json:
        print_json(CreateResult(location=location, format=info, maintenance_owner=owner, for_velero=options.for_velero))
        return
    say(f"Created a repository in {location}.")
    print_facts(_format_facts(info))
    note("")
    note(f"Maintenance has to be run by {owner}: without it, what is forgotten keeps its space.")
    if owner == _VELERO_OWNER:
        note(
            "That is the identity of Velero's maintenance jobs and server. If kopia is to run it, let kopia take over:"
        )
        note("  kopia maintenance set --owner=me")
    note("Keep the password: without it nobody can read the repository.")


@repository.command(epilog="\b\nExamples:\n  lighter repository status\n  lighter repository status --blobs --json")
@json_result(StatusResult)
@click.option("--blobs", "with_blobs", is_flag=True, help="List the store and add up what lies in it.")
@repository_options
def status(connection: Connection, as_json: bool, with_blobs: bool) -> None:
    """Show what the repository is made of and what it holds."""

    async def work() -> StatusResult:
        async with connection.repository(ignore_damaged=True) as opened:
            return await _status(opened, with_blobs)

    result = connection.run(work())
    if as_json:
        print_json(result)
        return
    print_facts(
        [
            ("Location", result.location),
            *_format_facts(result.format),
            ("Contents", f"{result.contents:,} in {plural(result.index_blobs, 'index blob')}"),
            ("Snapshots", f"{result.snapshots:,} of {plural(result.sources, 'source')}"),
            ("Manifests", f"{result.manifests:,}"),
            ("Maintenance by", result.maintenance_owner or "nobody"),
        ]
    )
    for feature in result.unknown_features:
        note(f"The repository asks for a feature that this release does not know: {feature}")
    if result.blobs is not None:
        say()
        rows = [(kind.kind, f"{kind.count:,}", size_text(kind.bytes)) for kind in result.blobs]
        print_table(("BLOBS", "COUNT", "SIZE"), [*rows, ("total", "", size_text(result.bytes or 0))], right=(1, 2))


async def _status(opened: Repository, with_blobs: bool) -> StatusResult:
    from agent.repository.maintenance import MANIFEST_LABELS, parse_parameters
    from agent.snapshots.store import list_snapshots, list_sources

    lock = opened.format_manager.object_lock
    found = opened.manifests.find(MANIFEST_LABELS)
    owner = parse_parameters(found[-1].data).owner if found else ""
    blobs = await _blob_kinds(opened) if with_blobs else None
    return StatusResult(
        location=opened.storage.location,
        format=_format_info(opened.format, lock.mode if lock else "", lock.period_ns if lock else 0),
        contents=sum(1 for _ in opened.index.iterate()),
        index_blobs=len(opened.index.blob_ids),
        manifests=len(opened.manifests.find({})),
        snapshots=len(list_snapshots(opened.manifests).snapshots),
        sources=len(list_sources(opened.manifests)),
        maintenance_owner=owner,
        unknown_features=[str(feature) for feature in opened.format.unknown_features()],
        blobs=blobs,
        bytes=None if blobs is None else sum(kind.bytes for kind in blobs),
    )


async def _blob_kinds(opened: Repository) -> list[BlobKind]:
    kinds = [("p", "data"), ("q", "metadata"), ("x", "index"), ("n", "index"), ("m", "index"), ("l", "index")]
    kinds += [("s", "session"), ("_log_", "log")]
    totals: dict[str, tuple[int, int]] = {}
    async for blob in opened.storage.list():
        named = blob.blob_id.startswith(("kopia.", "udmrepo."))
        kind = "other" if named else next((k for prefix, k in kinds if blob.blob_id.startswith(prefix)), "other")
        count, size = totals.get(kind, (0, 0))
        totals[kind] = (count + 1, size + blob.length)
    return [BlobKind(kind, *totals[kind]) for kind in sorted(totals)]


@repository.command(
    "change-password",
    epilog="\b\nExamples:\n  lighter repository change-password\n"
    "  lighter repository change-password --password-file ~/.pw --new-password-file ~/.pw-new",
)
@json_result(PasswordResult)
@click.option("--new-password-file", type=click.Path(path_type=Path), metavar="FILE", help="With the new password.")
@repository_options
def change_password_command(connection: Connection, as_json: bool, new_password_file: Path | None) -> None:
    """Change the password of the repository.

    Everybody who uses the repository needs the new password from now on; at the latest after 15 minutes. Nothing but
    two small blobs is written, since the password only seals the keys.
    """
    from agent.repository.format_manager import cache_folder, change_password

    old = connection.password()
    new = _new_password(new_password_file)

    async def work() -> str:
        async with connection.storage() as storage:
            folder = cache_folder(connection.cache_dir, storage)
            await change_password(storage, old, new, cache_dir=folder)
            return storage.location

    location = connection.run(work())
    if as_json:
        print_json(PasswordResult(location, True))
        return
    say(f"The password of {location} was changed.")


def _new_password(file: Path | None) -> str:
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the password file {file}: {error}") from error
    if not sys.stdin.isatty():
        raise UsageError("no new password given", hint="use --new-password-file, or a terminal")
    entered: str = click.prompt("New repository password", hide_input=True, confirmation_prompt=True, err=True)
    return entered.strip()


repository.add_command(verify_command)
repository.add_command(repair_index_command)
