"""Memory of a backup does not follow the number of entries."""

import subprocess
import sys

_SCRIPT = """
import errno, os, stat, sys
from agent.snapshots.policy import DEFAULT_POLICY, PolicyTree
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.upload_file import FileUploads
from agent.snapshots.upload_plan import Plans
from agent.snapshots.upload_tree import Run, TreeUpload
from agent.volumes.attributes import Attributes
from agent.volumes.tree_read import FileContent, TreeEntry, Unreadable

FILE = Attributes(stat.S_IFREG | 0o644, 3, 1, 0, 0)

class Sink:
    def write_content(self, data, prefix=0, compression=0): return bytes(17)
    def write_contents(self, data, prefix=0, compression=0): return [bytes(17)] * len(data)
    def assemble(self, entries, prefix=0, compression=None): return list(entries)[0][1]

class Reader:
    path, attributes = b"/", Attributes(stat.S_IFDIR | 0o755, 0, 1, 0, 0)

    def __init__(self, count): self.count = count

    def batches(self):
        for start in range(0, self.count, 2000):
            yield [TreeEntry(b"%020d" % n, FILE) for n in range(start, start + 2000)]

    def directories_ahead(self, names): assert not names

    def look_up(self, name): return Unreadable(name, errno.ENOENT)

    def read_files(self, names, limit, total, at_once=1):
        if len(names) == 1: return [Unreadable(names[0], errno.ENOENT)]
        return [FileContent(name, FILE, b"abc") for name in names]

cancellation, progress, count = Cancellation(), UploadProgress(), int(sys.argv[1])
uploads = FileUploads(Sink(), cancellation, progress, 2)
tree = TreeUpload(
    Run(
        sink=Sink(), uploads=uploads, plans=Plans("DYNAMIC-4M-BUZHASH", 2), policies=PolicyTree(DEFAULT_POLICY, None),
        read=None, cancellation=cancellation, progress=progress, random=os.urandom, due=lambda: False, save=None,
    )
)
root = tree.upload(Reader(count), b"r", [])
uploads.close()
assert root.summ.files == count, root
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_kib(count: int) -> int:
    """Of a process of its own, by its address space: what `getrusage` tells began with that of its parent."""
    command = [sys.executable, "-c", _SCRIPT, str(count)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_a_directory_of_300000_entries_needs_no_more_than_one_of_40000():
    # Their JSON alone is 45 MiB, and what allocators keep for later differs from run to run.
    assert peak_kib(300_000) < peak_kib(40_000) + 32 * 1024
