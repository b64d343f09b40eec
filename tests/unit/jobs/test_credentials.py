"""Who a job is to the object store, and what happens when nobody says."""

from contextlib import AsyncExitStack

import msgspec
import pytest

from agent.base.errors import KubeForbidden, LocationInvalid, SecretAwaited, SecretMissing
from agent.jobs.credentials import find_credentials, proxy_with_password
from agent.jobs.secrets import PATIENCE_SECONDS, SecretReader
from agent.kube.backup_storage_location import SecretKey
from agent.movers.pod_main import Surroundings
from agent.movers.pod_protocol import CREDENTIALS_FILE, PASSWORD_KEY
from agent.movers.spec import S3Location
from agent.storage.s3_client import open_client
from agent.storage.s3_config import S3Config
from tests.unit.jobs.jobs_kit import KEYS, VELERO, World, bucket


def found(world, location):
    reader = SecretReader(world.kube, VELERO, world.clock)
    return find_credentials(location, reader, world.environ)


@pytest.fixture(params=["agent", "mover pod"])
def read(request, tmp_path):
    """What becomes of a credentials file for a profile: in the agent, and in a pod that has it mounted."""

    async def by_the_agent(value, profile):
        (tmp_path / "cloud").write_bytes(value)
        world = World(environ={"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "cloud")})
        return (await found(world, bucket({"profile": profile}, credential=None))).text

    async def by_a_pod(value, profile):
        (tmp_path / CREDENTIALS_FILE).write_bytes(value)
        (tmp_path / PASSWORD_KEY).write_text("password")
        around = Surroundings(environ={}, password_folder=tmp_path, credentials_folder=tmp_path)
        return around.secrets(S3Location(bucket="b", profile=profile)).credentials

    return by_the_agent if request.param == "agent" else by_a_pod


async def test_the_secret_of_the_location_comes_before_everything_else(tmp_path):
    file = tmp_path / "cloud"
    file.write_bytes(b"[default]\nregion = elsewhere\n")
    world = World(environ={"AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_ACCESS_KEY_ID": "A"})
    world.put_secret("cloud", credentials=KEYS)
    got = await found(world, bucket())
    assert got.text == KEYS.decode() and got.profile == "default"
    assert "Secret cloud" in got.origin and not got.access_key


async def test_the_file_of_the_agent_comes_before_its_environment(tmp_path):
    file = tmp_path / "cloud"
    file.write_bytes(KEYS)
    environ = {
        "AWS_SHARED_CREDENTIALS_FILE": str(file),
        "AWS_ACCESS_KEY_ID": "A",
        "AWS_SECRET_ACCESS_KEY": "B",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/token",
    }
    got = await found(World(environ=environ), bucket(credential=None))
    assert got.text == KEYS.decode() and not got.access_key


async def test_a_file_that_the_location_names_comes_before_the_one_of_the_agent(tmp_path):
    (tmp_path / "own").write_bytes(KEYS)
    environ = {"AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}
    location = bucket({"credentialsFile": str(tmp_path / "own")}, credential=None)
    assert (await found(World(environ=environ), location)).text == KEYS.decode()


async def test_without_a_file_the_keys_of_the_environment_count():
    environ = {
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/cloud",
        "AWS_ACCESS_KEY_ID": "A",
        "AWS_SECRET_ACCESS_KEY": "B",
        "AWS_SESSION_TOKEN": "C",
    }
    got = await found(World(environ=environ), bucket(credential=None))
    assert (got.access_key, got.secret_key, got.session_token, got.text) == ("A", "B", "C", "")
    assert "B" not in repr(got)


async def test_without_anything_the_worker_looks_around_itself():
    got = await found(World(), bucket({"profile": "p"}, credential=None))
    assert (got.text, got.access_key, got.profile) == ("", "", "p")


async def test_a_secret_that_was_replaced_counts_from_the_next_job_on():
    world = World()
    world.put_secret("cloud", credentials=KEYS)
    await found(world, bucket())
    world.put_secret("cloud", credentials=KEYS.replace(b"EXAMPLE", b"ROTATED"))
    assert "AKIAROTATED" in (await found(world, bucket())).text


async def test_a_missing_secret_may_still_come_for_a_while_and_then_is_missing():
    world = World()
    reader = SecretReader(world.kube, VELERO, world.clock)
    with pytest.raises(SecretAwaited, match=r"Secret velero/cloud.*location default.*does not exist") as caught:
        await find_credentials(bucket(), reader, {})
    assert caught.value.retryable
    world.clock.advance(PATIENCE_SECONDS - 1)
    with pytest.raises(SecretAwaited):
        await find_credentials(bucket(), reader, {})
    world.clock.advance(2)
    with pytest.raises(SecretMissing, match="velero/cloud") as caught:
        await find_credentials(bucket(), reader, {})
    assert not caught.value.retryable
    world.put_secret("cloud", credentials=KEYS)
    assert (await find_credentials(bucket(), reader, {})).text
    await world.drop_secret("cloud")
    with pytest.raises(SecretAwaited):
        await find_credentials(bucket(), reader, {})


async def test_a_missing_or_empty_key_is_told_at_once_and_by_name():
    world = World()
    world.put_secret("cloud", other=KEYS)
    with pytest.raises(SecretMissing, match="no key 'credentials'"):
        await found(world, bucket())
    world.put_secret("cloud", credentials=b" \n")
    with pytest.raises(SecretMissing, match="nothing under its key 'credentials'"):
        await found(world, bucket())


@pytest.mark.parametrize("name", ["../../other/secrets/x", "a/b", "", "A", "x?y=z"])
async def test_a_name_that_would_lead_elsewhere_is_asked_for_nowhere(name):
    world = World()
    location = bucket()
    spec = msgspec.structs.replace(location.spec, credential=SecretKey(name=name, key="credentials"))
    with pytest.raises(SecretMissing, match="is no name"):
        await found(world, msgspec.structs.replace(location, spec=spec))
    assert world.kube.requests == []


async def test_a_secret_that_may_not_be_read_is_told_as_such():
    world = World()
    world.put_secret("cloud", credentials=KEYS)
    world.kube.denied.add(("get", "secrets"))
    with pytest.raises(KubeForbidden, match="secrets velero/cloud"):
        await found(world, bucket())


@pytest.mark.parametrize(
    "value",
    [
        b"AKIAEXAMPLE:wJalrXUtnFEMI",
        b"[default\naws_secret_access_key=wJalrXUtnFEMI",
        b"\xff\xfewJalrXUtnFEMI",
        b"[default]\n[default]\naws_secret_access_key=wJalrXUtnFEMI",
        b"[other]\naws_secret_access_key=wJalrXUtnFEMI",
    ],
)
async def test_what_is_no_credentials_file_is_refused_without_quoting_it(read, value):
    with pytest.raises(LocationInvalid, match="the file ") as caught:
        await read(value, "")
    assert "wJalrXUtnFEMI" not in str(caught.value)


async def test_a_profile_in_the_style_of_a_config_file_is_found(read):
    text = await read(b"[profile backup]\r\nrole_arn = arn:x\r\n", "backup")
    assert text == "[backup]\nrole_arn = arn:x\n"
    both = b"[backup]\na = 1\n[profile backup]\nb = 2\n"
    assert await read(both, "backup") == both.decode()


async def test_a_credentials_file_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(LocationInvalid, match="is no file"):
        await found(World(), bucket({"credentialsFile": str(tmp_path)}, credential=None))


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({"HTTPS_PROXY": "http://u:p@proxy:3128"}, "http://u:p@proxy:3128"),
        ({"https_proxy": "http://u:p@proxy:3128"}, "http://u:p@proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, ""),
        ({"HTTP_PROXY": "http://u:p@proxy:3128"}, ""),
        ({"HTTPS_PROXY": "http://u:p@proxy:3128", "NO_PROXY": "localhost, .example"}, ""),
        ({"HTTPS_PROXY": "http://u:p@proxy:3128", "NO_PROXY": "ample"}, "http://u:p@proxy:3128"),
        ({"HTTPS_PROXY": "http://u:p@proxy:3128", "no_proxy": "*"}, ""),
        ({"HTTPS_PROXY": "http://u:p@proxy:3128", "no_proxy": "10.0.0.0/8"}, "http://u:p@proxy:3128"),
    ],
)
def test_only_a_proxy_with_a_password_goes_with_the_secrets(environ, proxy):
    assert proxy_with_password(environ, "https://s3.example") == proxy


async def test_nothing_around_a_worker_comes_before_the_file_it_was_given(tmp_path, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "of-the-environment",
        "AWS_SECRET_ACCESS_KEY": "of-the-environment",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/x",
        "AWS_PROFILE": "other",
    }.items():
        monkeypatch.setenv(name, value)
    world = World()
    world.put_secret("cloud", credentials=KEYS + b"region = eu-central-1\n")
    got = await found(world, bucket())
    file = tmp_path / "credentials"
    file.write_text(got.text)
    config = S3Config(bucket="backups", profile=got.profile, credentials_file=str(file))
    async with AsyncExitStack() as stack:
        client = await open_client(stack, config, config.region)
        signer = await client._request_signer._credentials.get_frozen_credentials()
        assert signer.access_key == "AKIAEXAMPLE"
        assert client.meta.region_name == "eu-central-1"
