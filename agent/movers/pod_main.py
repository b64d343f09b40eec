"""A mover pod put together: who it is, its secrets from mounted folders, the API server, and a worker process.

    result = await run_pod(Surroundings(environ=os.environ), kind, name, stopped=event, log=print_log)

The worker is one of the fork server's, as in the agent: it can be killed, and its end is never the end of the process
that has to say what happened.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent import __version__
from agent.base.clock import SystemClock
from agent.base.errors import ConfigurationError, LighterageError, UsageError
from agent.kube.aio_api import AioKubeApi
from agent.kube.aio_transport import load_configuration
from agent.kube.meta import Key
from agent.movers.aws_credentials import CREDENTIALS_FILE_VARIABLE, aws_credentials
from agent.movers.failure import Redactor, describe, secret_words
from agent.movers.memory import WorkerGroup, worker_share
from agent.movers.pod_messages import MAX_TERMINATION_MESSAGE, write_error
from agent.movers.pod_protocol import (
    CACHE_FOLDER,
    CREDENTIALS_FILE,
    CREDENTIALS_FOLDER,
    MOVED_RESOURCES,
    NAMESPACE_VARIABLE,
    NODE_VARIABLE,
    PASSWORD_FOLDER,
    PASSWORD_KEY,
    POD_NAME_VARIABLE,
    PROXY_VARIABLE,
    TERMINATION_LOG,
    TERMINATION_LOG_VARIABLE,
)
from agent.movers.pod_worker import PodPlace, PodWorker
from agent.movers.protocol import Log
from agent.movers.spec import JobResult, S3Location, Secrets, UrlLocation
from agent.movers.supervisor import MoverOptions, Movers

_MAX_SECRET = 1 << 20
"""Bytes; a Secret is not larger."""
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the exposer put around the process."""

    environ: Mapping[str, str] = field(repr=False)
    password_folder: Path = Path(PASSWORD_FOLDER)
    credentials_folder: Path = Path(CREDENTIALS_FOLDER)
    cache_folder: Path = Path(CACHE_FOLDER)
    namespace_file: Path = _NAMESPACE_FILE
    control_group: Path = Path("/sys/fs/cgroup")
    """The container's own, as it sees it."""

    def place(self, kind: str, name: str) -> PodPlace:
        """Which pod this is; raises `UsageError`, `ConfigurationError`."""
        if kind not in MOVED_RESOURCES:
            raise UsageError(f"no mover works for a {kind}", hint=f"one of {', '.join(MOVED_RESOURCES)}")
        environ = self.environ
        namespace = environ.get(NAMESPACE_VARIABLE, "")
        if not namespace:
            try:
                namespace = self.namespace_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(
                    f"the namespace of this pod is not known: {error}", hint=f"set {NAMESPACE_VARIABLE}"
                ) from error
        pod = environ.get(POD_NAME_VARIABLE) or name
        resource, node = MOVED_RESOURCES[kind], environ.get(NODE_VARIABLE, "")
        return PodPlace(pod=Key(namespace, pod), resource=resource, name=name, node=node)

    def secrets(self, location: UrlLocation | S3Location) -> Secrets:
        """From the mounted folders; raises `ConfigurationError`, `LocationInvalid`.

        A location may have no credentials of its own: then those of the agent's file count, if it has one.
        """
        password = _text(self.password_folder / PASSWORD_KEY, "the repository's password")
        credentials = self._credentials(location) if isinstance(location, S3Location) else ""
        return Secrets(password=password.strip(), credentials=credentials, proxy=self.environ.get(PROXY_VARIABLE, ""))

    def _credentials(self, location: S3Location) -> str:
        given = self.environ.get(CREDENTIALS_FILE_VARIABLE, "")
        for file in (self.credentials_folder / CREDENTIALS_FILE, *([Path(given)] if given else [])):
            if file.exists():
                value = _read_secret(file, "the location's credentials")
                return aws_credentials(value, location.profile, f"the file {str(file)!r}")
        return ""

    def leave(self, message: str) -> None:
        """Write the termination message; raises `ConfigurationError`."""
        path = self.environ.get(TERMINATION_LOG_VARIABLE) or TERMINATION_LOG
        try:
            Path(path).write_bytes(message.encode()[:MAX_TERMINATION_MESSAGE])
        except OSError as error:
            raise ConfigurationError(
                f"the outcome could not be left at {path}: {error}", hint=f"set {TERMINATION_LOG_VARIABLE}"
            ) from error


async def run_pod(
    around: Surroundings,
    kind: str,
    name: str,
    *,
    stopped: asyncio.Event,
    log: Callable[[Log], None],
    hide: Callable[[Iterable[str]], None] = lambda _: None,
    options: MoverOptions | None = None,
    kubeconfig: str = "",
) -> JobResult:
    """Do the job of this pod. `stopped` tells it to end, as SIGTERM does; `hide` is told every secret that is read.

    Raises what the job came to if that is no result. Whatever happens is in the termination message before.
    """
    try:
        place = around.place(kind, name)
        configuration = await load_configuration(kubeconfig)
    except LighterageError as error:
        around.leave(write_error(describe(error, Redactor(Secrets(password="")))))
        raise
    container = WorkerGroup(around.control_group)
    options = options or MoverOptions(concurrency=1, memory_bytes=worker_share(container.limit()))

    def secrets(location: UrlLocation | S3Location) -> Secrets:
        read = around.secrets(location)
        hide(secret_words(read))
        return read

    clock, rng = SystemClock(), random.Random()  # noqa: S311  # spreads retries
    async with (
        AioKubeApi(configuration, user_agent=f"lighterage-mover/{__version__}") as api,
        Movers(options, clock, around.environ) as movers,
    ):
        worker = PodWorker(
            api,
            movers,
            clock,
            rng,
            place,
            secrets=secrets,
            leave=around.leave,
            log=log,
            stopped=stopped,
            was_out_of_memory=container.was_exhausted,
            cache_dir=str(around.cache_folder) if around.cache_folder.is_dir() else "",
        )
        return await worker.run()


def _read_secret(path: Path, what: str) -> bytes:
    """A mounted Secret; the files are in memory, so reading them blocks nothing."""
    try:
        with path.open("rb") as file:
            value = file.read(_MAX_SECRET + 1)
        if len(value) > _MAX_SECRET:
            raise ConfigurationError(f"{what} at {path} is larger than {_MAX_SECRET} bytes")
        return value
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {what}: {error}", hint="the exposer mounts the Secret there; look at the pod's volumes"
        ) from error


def _text(path: Path, what: str) -> str:
    try:
        return _read_secret(path, what).decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what} at {path} is no text in UTF-8") from None
