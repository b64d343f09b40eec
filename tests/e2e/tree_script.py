"""Runs inside a pod of a test, through standard input: makes the content of a volume, and describes every entry of it.

    python3 - make FOLDER SEED KIND…      tiny, small, many, large, huge, odd
    python3 - describe FOLDER…            JSON: {folder: {path: [what a restore has to bring back]}}
    python3 - describe-device DEVICE…     JSON: {device: sha256}

It imports nothing of the project's, so that the project's own idea of a file tree is not what it is compared with.
"""

import hashlib
import json
import os
import random
import stat
import sys


def make(root, seed, kinds):
    source = random.Random(seed)
    for kind in kinds:
        KINDS[kind](f"{root}/{kind}", source)


def make_tiny(folder, source):
    os.makedirs(folder)
    with open(f"{folder}/file", "wb") as file:
        file.write(source.randbytes(1000))


def make_small(folder, source):
    for number in range(200):
        parent = f"{folder}/{number // 20}"
        os.makedirs(parent, exist_ok=True)
        with open(f"{parent}/{number}", "wb") as file:
            file.write(source.randbytes(source.randrange(20000)))


def make_many(folder, source):
    for number in range(20000):
        parent = f"{folder}/{number // 100:03d}"
        if number % 100 == 0:
            os.makedirs(parent)
        with open(f"{parent}/{number % 100:02d}", "wb") as file:
            file.write(source.randbytes(4096))


def make_large(folder, source):
    os.makedirs(folder)
    with open(f"{folder}/random", "wb") as file:
        for _ in range(192):
            file.write(source.randbytes(1 << 20))


def make_huge(folder, source):
    os.makedirs(folder)
    for number in range(4):
        with open(f"{folder}/{number}", "wb") as file:
            for _ in range(256):
                file.write(source.randbytes(1 << 20))


def make_odd(folder, _source):
    os.makedirs(f"{folder}/an empty folder")
    os.chmod(f"{folder}/an empty folder", 0o1777)  # noqa: S103 - on purpose
    open(f"{folder}/empty", "wb").close()
    with open(f"{folder}/näme ☃ \\ 'q'", "w") as file:
        file.write("x")
    os.symlink("empty", f"{folder}/link")
    os.symlink("/nowhere", f"{folder}/dangling")
    with open(f"{folder}/owned", "w") as file:
        file.write("y")
    os.chown(f"{folder}/owned", 1234, 4321)
    os.chmod(f"{folder}/owned", 0o640)
    with open(f"{folder}/set-uid", "w") as file:
        file.write("z")
    os.chmod(f"{folder}/set-uid", 0o4755)  # noqa: S103 - on purpose
    with open(f"{folder}/sparse", "wb") as file:
        file.truncate(16 << 20)
        file.seek(8 << 20)
        file.write(b"middle")
    with open(f"{folder}/text", "w") as file:
        file.writelines(f"line {number}\n" for number in range(50000))
    os.utime(f"{folder}/owned", ns=(10**18 + 1, 10**18 + 123456789))
    os.utime(folder, ns=(10**18, 10**18 + 987654321))
    # Data bases refuse a folder that is not theirs.
    root = os.path.dirname(folder)
    os.chown(root, 1000, 2000)
    os.chmod(root, 0o2775)  # noqa: S103 - on purpose


KINDS = {
    "tiny": make_tiny,
    "small": make_small,
    "many": make_many,
    "large": make_large,
    "huge": make_huge,
    "odd": make_odd,
}


def describe(root):
    """The time of the root is not told: a restore of pod volumes leaves its mark there for a moment."""
    info = os.stat(root)
    found = {".": [stat.filemode(info.st_mode), info.st_uid, info.st_gid, 0]}
    for folder, folders, files in os.walk(root):
        if folder == root and ".velero" in folders:
            folders.remove(".velero")
        for name in folders + files:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            entry = [stat.filemode(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns]
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as data:
                    entry += [info.st_size, hashlib.file_digest(data, "sha256").hexdigest()]
            elif stat.S_ISLNK(info.st_mode):
                entry.append(os.readlink(path))
            found[os.path.relpath(path, root)] = entry
    return found


def describe_device(path):
    with open(path, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "make":
        make(rest[0], int(rest[1]), rest[2:])
    else:
        how = describe if verb == "describe" else describe_device
        json.dump({path: how(path) for path in rest}, sys.stdout)
