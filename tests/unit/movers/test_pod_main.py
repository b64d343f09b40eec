"""What a mover pod finds around itself, and the commands that run in pods."""

import asyncio
import os
import sys

import pytest

from agent.base.errors import ConfigurationError, UsageError
from agent.kube.meta import Key
from agent.movers.pod_main import Surroundings, run_pod
from agent.movers.pod_protocol import HOLD_COMMAND, MOVED_RESOURCES, RUN_COMMAND, TERMINATION_LOG_VARIABLE
from agent.movers.spec import S3Location, UrlLocation

BUCKET = S3Location(bucket="backups", profile="default")
CREDENTIALS = "[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = very-secret\n"


@pytest.fixture
def around(tmp_path):
    (tmp_path / "repository").mkdir()
    (tmp_path / "location").mkdir()
    (tmp_path / "repository" / "repository-password").write_text("static-passw0rd\n")
    (tmp_path / "namespace").write_text("velero\n")
    return lambda **environ: Surroundings(
        environ=environ,
        password_folder=tmp_path / "repository",
        credentials_folder=tmp_path / "location",
        cache_folder=tmp_path / "cache",
        namespace_file=tmp_path / "namespace",
    )


def test_the_pod_is_the_one_that_the_downward_api_names(around):
    place = around(POD_NAME="pod-7", VELERO_NAMESPACE="backups", NODE_NAME="node1").place("DataUpload", "nightly")
    assert (place.pod, place.key, place.node) == (Key("backups", "pod-7"), Key("backups", "nightly"), "node1")


@pytest.mark.parametrize("kind", MOVED_RESOURCES)
def test_without_the_downward_api_the_pod_is_called_as_its_object(around, kind):
    place = around().place(kind, "nightly")
    assert (place.pod, place.resource.view.__name__) == (Key("velero", "nightly"), kind)


def test_a_namespace_that_nobody_tells_is_an_error(around, tmp_path):
    (tmp_path / "namespace").unlink()
    with pytest.raises(ConfigurationError, match="VELERO_NAMESPACE"):
        around().place("DataUpload", "nightly")


def test_other_kinds_have_no_movers(around):
    with pytest.raises(UsageError, match="no mover works for a Pod"):
        around().place("Pod", "nightly")


def test_secrets_come_from_mounted_files(around, tmp_path):
    (tmp_path / "location" / "credentials").write_text(CREDENTIALS)
    secrets = around(LIGHTERAGE_S3_PROXY="http://user:word@proxy:3128").secrets(BUCKET)
    assert (secrets.password, secrets.credentials) == ("static-passw0rd", CREDENTIALS)
    assert secrets.proxy == "http://user:word@proxy:3128"
    assert "very-secret" not in repr(secrets) and "hunter2" not in repr(around(LIGHTERAGE_S3_PROXY="hunter2"))


def test_a_location_may_have_no_credentials(around):
    assert around().secrets(BUCKET).credentials == ""


def test_without_credentials_of_the_location_those_of_the_agents_file_count(around, tmp_path):
    (tmp_path / "cloud").write_text(CREDENTIALS)
    assert around(AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "cloud")).secrets(BUCKET).credentials == CREDENTIALS
    assert around(AWS_SHARED_CREDENTIALS_FILE="/nowhere/cloud").secrets(BUCKET).credentials == ""


def test_a_location_without_a_bucket_needs_no_credentials(around, tmp_path):
    (tmp_path / "location" / "credentials").write_text("no credentials file")
    assert around().secrets(UrlLocation(url="file:///backups")).credentials == ""


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x" * ((1 << 20) + 1)])
def test_a_password_that_is_missing_or_nonsense_is_named_without_its_content(around, tmp_path, content):
    file = tmp_path / "repository" / "repository-password"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="repository's password") as caught:
        around().secrets(BUCKET)
    assert "xxxx" not in str(caught.value)


def test_the_outcome_goes_where_the_kubelet_reads_it(around, tmp_path):
    file = tmp_path / "termination-log"
    around(**{TERMINATION_LOG_VARIABLE: str(file)}).leave("é" * 4_096)
    assert len(file.read_bytes()) == 4_096


def test_an_outcome_that_cannot_be_left_is_an_error(around, tmp_path):
    with pytest.raises(ConfigurationError, match="could not be left"):
        around(**{TERMINATION_LOG_VARIABLE: str(tmp_path / "no" / "file")}).leave("x")


async def test_a_pod_that_cannot_reach_an_api_server_says_so_in_its_termination_message(around, tmp_path):
    log = tmp_path / "termination-log"
    around = around(**{TERMINATION_LOG_VARIABLE: str(log)})
    with pytest.raises(ConfigurationError):
        await run_pod(
            around,
            "DataUpload",
            "nightly",
            stopped=asyncio.Event(),
            log=lambda _: None,
            kubeconfig=str(tmp_path / "none"),
        )
    assert "configuration.invalid" in log.read_text()


async def lighter(*words, **environ):
    command = (sys.executable, "-c", "from agent.cli.main import main; main()", *words)
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, env={**os.environ, **environ}, stdout=pipe, stderr=pipe)


async def test_the_run_command_leaves_a_message_and_the_status_of_its_error(tmp_path):
    log = tmp_path / "termination-log"
    environ = {TERMINATION_LOG_VARIABLE: str(log), "VELERO_NAMESPACE": "velero", "KUBECONFIG": str(tmp_path / "none")}
    process = await lighter(*RUN_COMMAND[1:], "--kind", "DataUpload", "--name", "nightly", **environ)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == ConfigurationError.exit_status
    assert b"configuration.invalid" in errors and "configuration.invalid" in log.read_text()


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
async def test_the_hold_command_ends_in_order_when_it_is_told_to(number):
    script = (
        "import os, signal, sys; from agent.cli.main import main;"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [signal.{number}]); os.kill(os.getpid(), signal.{number});"
        f"sys.argv = {list(HOLD_COMMAND)!r}; main()"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await asyncio.wait_for(process.wait(), 60) == 0


async def test_the_hold_command_loads_nothing_that_it_does_not_need():
    script = (
        "import sys; from agent.cli.main import lighter; import agent.cli.mover;"
        "libraries = {'asyncio', 'aiohttp', 'botocore', 'kubernetes', 'uvloop'};"
        "heavy = [n for n in sys.modules if n.split('.')[0] in libraries"
        " or n.startswith(('agent.movers', 'agent.kube', 'agent.repository', 'agent.storage'))];"
        "print(' '.join(heavy))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert output.split() == []
