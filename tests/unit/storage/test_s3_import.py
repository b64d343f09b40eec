"""What importing the S3 client leaves out, and that nothing else notices."""

import subprocess
import sys

_WITH_ANOTHER_THREAD = """
import ssl, sys, threading
from agent.storage.s3_import import s3_storage

assert "aiohttp" not in sys.modules
counts = []
importing = threading.Event()


def certificates():
    return len(ssl.create_default_context().get_ca_certs())


def watch():
    importing.wait()
    counts.append(certificates())


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "aiohttp.connector" and not importing.is_set():
            importing.set()
            watcher.join()
            print("here", certificates())


watcher = threading.Thread(target=watch)
watcher.start()
sys.meta_path.insert(0, Finder())
before = certificates()
print("class", s3_storage().__name__)
import aiohttp.connector

print("aiohttp", len(aiohttp.connector._SSL_CONTEXT_VERIFIED.get_ca_certs()))
print("verifies", aiohttp.connector._SSL_CONTEXT_VERIFIED.verify_mode.name)
print("others", counts == [before], certificates() == before, bool(before))
"""


def test_no_certificates_are_read_for_contexts_that_nobody_uses() -> None:
    done = subprocess.run([sys.executable, "-c", _WITH_ANOTHER_THREAD], capture_output=True, text=True, check=True)
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said["class"] == "S3Storage"
    assert said["here"] == said["aiohttp"] == "0"
    assert said["verifies"] == "CERT_REQUIRED"
    assert said["others"].startswith("True True ")


_FROM_MANY_THREADS = """
import ssl
from concurrent.futures import ThreadPoolExecutor
from agent.storage.s3_import import s3_storage

with ThreadPoolExecutor(8) as pool:
    print({future.result().__name__ for future in [pool.submit(s3_storage) for _ in range(8)]})
print("set_default_verify_paths" in vars(ssl.SSLContext))
"""


def test_many_may_open_a_bucket_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", _FROM_MANY_THREADS], capture_output=True, text=True, check=True)
    assert done.stdout == "{'S3Storage'}\nFalse\n"
