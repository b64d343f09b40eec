"""Layers of programs: static ones, which need no more than a file and a few folders, and some that load libraries."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hack.images import libraries
from hack.images.layer import Recipe, hash_of

_USERS = {"root": (0, "/"), "nonroot": (65532, "/home/nonroot")}


def programs(name: str, files: Mapping[str, Path], folders: Mapping[str, int] | None = None) -> Recipe:
    """Files by their place in the image, folders with their mode, and the user data base that containers expect."""
    folders = folders or {}

    def fill(root: Path) -> None:
        for place, source in files.items():
            target = root / place.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o755)
        for place, mode in folders.items():
            folder = root / place.lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)

    return Recipe(name, hash_of(name, repr(sorted(folders.items())), *files, *files.values(), Path(__file__)), fill)


def system_files(name: str = "system") -> Recipe:
    """Users, groups, name service, a temporary folder."""

    def fill(root: Path) -> None:
        etc = root / "etc"
        etc.mkdir()
        users = [f"{user}:x:{uid}:{uid}::{home}:/sbin/nologin" for user, (uid, home) in _USERS.items()]
        (etc / "passwd").write_text("\n".join(users) + "\n")
        (etc / "group").write_text("".join(f"{user}:x:{uid}:\n" for user, (uid, _) in _USERS.items()))
        (etc / "nsswitch.conf").write_text("hosts: files dns\n")
        for folder in ("tmp", "var/tmp"):
            (root / folder).mkdir(parents=True)
            (root / folder).chmod(0o1777)

    return Recipe(name, hash_of(Path(__file__)), fill)


def busybox() -> Recipe:
    """The static busybox of the system, with a link for each of its applets."""
    source = Path(shutil.which("busybox") or "/bin/busybox")

    def fill(root: Path) -> None:
        (root / "bin").mkdir()
        shutil.copyfile(source, root / "bin" / "busybox")
        (root / "bin" / "busybox").chmod(0o755)
        applets = subprocess.run([source, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        for applet in applets:
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")

    return Recipe("busybox", hash_of(source, Path(__file__)), fill)


def linked_program(place: str, source: Path) -> Recipe:
    """A program at its place in the image, with the shared libraries that it loads."""

    def fill(root: Path) -> None:
        target = root / place.lstrip("/")
        target.parent.mkdir(parents=True)
        shutil.copyfile(source, target)
        target.chmod(0o755)
        libraries.copy_libraries(root, libraries.linked([target]))

    return Recipe(source.name, hash_of(place, source, Path(__file__), Path(libraries.__file__)), fill)
