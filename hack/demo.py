"""`make demo`: the whole story on real data, in a folder of its own that is removed at the end.

Back up a tree, change it, back it up again, restore it elsewhere, compare both trees entry by entry (with nothing of
the engine's: `os.lstat` and SHA-256), verify the repository, and say what each step cost.

VOLUME=/path backs up another tree than the interpreter's library (it is copied first, nothing in it is touched).
STORE=s3 keeps the repository in a real S3 server on loopback instead of a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIGHTER = Path(sys.executable).parent / "lighter"


def say(text: str) -> None:
    print(text, flush=True)


def lighter(*args: str) -> dict[str, object]:
    """Run one command, show it, and return its JSON result with wall seconds and peak memory added."""
    say(f"\n$ lighter {' '.join(args)}")
    started = time.monotonic()
    process = subprocess.Popen([LIGHTER, *args, "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"demo: lighter {args[0]} failed")
    result: dict[str, object] = json.loads(output.splitlines()[-1]) if output.strip() else {}
    result["wall"] = time.monotonic() - started
    result["peak"] = usage.ru_maxrss * 1024
    return result


def size(count: object) -> str:
    value = float(str(count))
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def requests(result: dict[str, object]) -> str:
    counts = result["requests"]
    assert isinstance(counts, dict)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()) if count)


def report_backup(result: dict[str, object]) -> None:
    rate = float(str(result["bytes"])) / float(str(result["wall"])) / 1e6
    say(
        f"  {result['files']} files in {result['directories']} folders, {size(result['bytes'])}, "
        f"{size(result['newBytes'])} new; {result['wall']:.1f} s, {rate:.0f} MB/s, peak memory {size(result['peak'])}"
    )
    say(f"  requests to the store: {requests(result)}")
    say(f"  snapshot {result['snapshotID']}, root {result['rootObjectID']}")


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything that a restore has to bring back, by relative path."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files, "."] if Path(folder) == root else [*folders, *files]:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            content = ""
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as data:
                    content = hashlib.file_digest(data, "sha256").hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif not stat.S_ISDIR(info.st_mode):
                continue
            length = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
            found[os.path.relpath(path, root)] = (
                info.st_mode,
                info.st_uid,
                info.st_gid,
                length,
                info.st_mtime_ns,
                content,
            )
    return found


def compare(left: Path, right: Path) -> None:
    """Exit with the first differences unless both trees are equal in content and metadata."""
    ours, theirs = describe(left), describe(right)
    different = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    if different:
        for path in different[:10]:
            say(f"  differs: {path}: {ours.get(path)} != {theirs.get(path)}")
        raise SystemExit(f"demo: {len(different)} of {len(ours)} entries differ after the restore")
    say(f"  compared {len(ours)} entries: content, type, mode, owner, time all equal")


def change(root: Path) -> None:
    """Edit, add, remove, rename, retime: what a day does to a volume."""
    rng = random.Random(1)
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for path in rng.sample(files, min(20, len(files))):
        with path.open("ab") as out:
            out.write(b"changed\n")
    added = root / "added-by-demo"
    added.mkdir()
    (added / "blob.bin").write_bytes(rng.randbytes(3_000_000))
    (added / "link").symlink_to("blob.bin")
    os.chmod(added / "blob.bin", 0o4750)
    os.utime(added / "blob.bin", ns=(1, 1_234_567_890_123_456_789))
    if len(files) > 40:
        files[0].unlink(missing_ok=True)
        files[1].rename(files[1].with_name("renamed-by-demo"))
    say("  changed 20 files, added 3 entries, removed one, renamed one")


@contextmanager
def store(work: Path) -> Iterator[str]:
    """The repository URL: a folder, or a bucket of a real S3 server on loopback."""
    if os.environ.get("STORE", "local") != "s3":
        yield f"file://{work}/repository"
        return
    from agent.testing.s3_server import SeaweedServer

    with SeaweedServer(work / "seaweed") as server:
        server.create_bucket("demo")
        os.environ["AWS_ACCESS_KEY_ID"] = server.access_key
        os.environ["AWS_SECRET_ACCESS_KEY"] = server.secret_key
        say(f"S3 server (SeaweedFS) at {server.endpoint}")
        yield f"s3://demo/volumes/?endpoint={server.endpoint}&region=us-east-1&path_style=true"


def main() -> None:
    volume = Path(os.environ.get("VOLUME") or sysconfig.get_paths()["stdlib"]).resolve()
    with tempfile.TemporaryDirectory(prefix="lighterage-demo-") as folder, store(Path(folder)) as url:
        work = Path(folder)
        say(f"copying {volume} to work on a copy")
        tree = work / "volume"
        shutil.copytree(volume, tree, symlinks=True, ignore=shutil.ignore_patterns("site-packages"))
        password = work / "password"
        password.write_text("demo-passw0rd")
        os.environ.update(LIGHTER_REPO=url, LIGHTER_PASSWORD_FILE=str(password), LIGHTER_CACHE_DIR=str(work / "cache"))
        os.chdir(work)
        say(f"in {work}, with LIGHTER_REPO={url} and LIGHTER_PASSWORD_FILE set")
        lighter("repository", "create")
        report_backup(lighter("backup", "volume"))
        say("\na day goes by")
        change(tree)
        second = lighter("backup", "volume")
        report_backup(second)
        result = lighter("restore", "latest", "restored")
        rate = float(str(second["bytes"])) / float(str(result["wall"])) / 1e6
        say(f"  {result['wall']:.1f} s, {rate:.0f} MB/s, peak memory {size(result['peak'])}")
        say(f"  requests to the store: {requests(result)}")
        compare(tree, work / "restored")
        verified = lighter("verify")
        say(f"  every file of every snapshot was read and hashed in {verified['wall']:.1f} s")
        checked = lighter("repository", "verify")
        say(f"  {checked['blobs']} blobs with {size(checked['bytes'])}: everything that they should hold is there")
        say("\nAll is well; removing what the demo made.")


if __name__ == "__main__":
    main()
