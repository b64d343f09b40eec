"""Where keys come from: botocore's own chain, each link of it once, against a token service and a metadata service on
loopback."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.base.errors import CredentialsMissing
from agent.storage.base import BlobId
from agent.testing.recording_s3 import Answer, RecordedRequest, RecordingS3
from tests.storage.conftest import opened

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")
NO_KEYS = {"access_key": "", "secret_key": ""}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own configuration counts."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
async def service() -> AsyncIterator[RecordingS3]:
    """Stands for a token or metadata service."""
    async with RecordingS3() as server:
        yield server


async def signer(recording: RecordingS3, **options: object) -> RecordedRequest:
    """What a put arrives as."""
    async with opened(recording, **NO_KEYS, **options) as storage:
        await storage.put(PACK, [b"x"])
    return recording.asked("PUT")[-1]


async def test_keys_and_a_session_token_from_the_environment(
    recording: RecordingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-env")
    request = await signer(recording)
    assert (request.access_key, request.headers["x-amz-security-token"]) == ("AKIAENV", "token-env")


async def test_given_keys_win_over_the_environment(recording: RecordingS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-env")
    async with opened(recording) as storage:
        await storage.put(PACK, [b"x"])
    request = recording.asked("PUT")[-1]
    assert request.access_key == "AKIATEST"
    assert "x-amz-security-token" not in request.headers


async def test_profiles_of_a_given_or_of_the_usual_file(recording: RecordingS3, tmp_path: Path) -> None:
    for file, user in (("given", "AKIAGIVEN"), ("credentials", "AKIAUSUAL")):
        (tmp_path / file).write_text(
            f"[default]\naws_access_key_id={user}\naws_secret_access_key=s\n"
            f"[velero]\naws_access_key_id={user}VELERO\naws_secret_access_key=s\naws_session_token=t\n"
        )
    given = str(tmp_path / "given")
    assert (await signer(recording)).access_key == "AKIAUSUAL"
    assert (await signer(recording, profile="velero")).access_key == "AKIAUSUALVELERO"
    assert (await signer(recording, credentials_file=given)).access_key == "AKIAGIVEN"
    both = await signer(recording, credentials_file=given, profile="velero")
    assert (both.access_key, both.headers["x-amz-security-token"]) == ("AKIAGIVENVELERO", "t")


async def test_a_process_named_in_a_profile(recording: RecordingS3, tmp_path: Path) -> None:
    keys = json.dumps({"Version": 1, "AccessKeyId": "AKIAPROCESS", "SecretAccessKey": "s"})
    (tmp_path / "keys.json").write_text(keys)
    (tmp_path / "config").write_text(f"[profile tool]\ncredential_process = cat {tmp_path}/keys.json\n")
    assert (await signer(recording, profile="tool")).access_key == "AKIAPROCESS"


async def test_a_web_identity_is_exchanged_for_a_role(
    recording: RecordingS3, service: RecordingS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("identity-of-the-pod")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/backup")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", service.endpoint)
    credentials = (
        "<Credentials><AccessKeyId>ASIAWEB</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
        "<SessionToken>token-web</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>"
    )
    result = f"<AssumeRoleWithWebIdentityResult>{credentials}</AssumeRoleWithWebIdentityResult>"
    answer = f"<AssumeRoleWithWebIdentityResponse>{result}</AssumeRoleWithWebIdentityResponse>"
    service.answer_path("POST", "/", Answer(200, answer, {"Content-Type": "text/xml"}))
    request = await signer(recording)
    assert (request.access_key, request.headers["x-amz-security-token"]) == ("ASIAWEB", "token-web")
    (asked,) = service.requests
    assert b"WebIdentityToken=identity-of-the-pod" in asked.body
    assert b"Action=AssumeRoleWithWebIdentity" in asked.body


async def test_an_instance_role_is_fetched_with_a_session_token(
    recording: RecordingS3, service: RecordingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.endpoint)
    roles = "/latest/meta-data/iam/security-credentials/"
    keys = {
        "Code": "Success",
        "AccessKeyId": "ASIAINSTANCE",
        "SecretAccessKey": "s",
        "Token": "token-instance",
        "Expiration": "2100-01-01T00:00:00Z",
    }
    service.answer_path("PUT", "/latest/api/token", Answer(200, "imds-session"))
    service.answer_path("GET", roles, Answer(200, "backup-role"))
    service.answer_path("GET", roles + "backup-role", Answer(200, json.dumps(keys)))
    request = await signer(recording)
    assert (request.access_key, request.headers["x-amz-security-token"]) == ("ASIAINSTANCE", "token-instance")
    assert {r.headers["x-aws-ec2-metadata-token"] for r in service.asked("GET")} == {"imds-session"}


async def test_a_container_role_is_fetched_with_the_pods_token(
    recording: RecordingS3, service: RecordingS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pod-token").write_text("token-of-the-pod")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.endpoint + "/v1/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "pod-token"))
    keys = {
        "AccessKeyId": "ASIAPOD",
        "SecretAccessKey": "s",
        "Token": "token-pod",
        "Expiration": "2100-01-01T00:00:00Z",
    }
    service.answer_path("GET", "/v1/credentials", Answer(200, json.dumps(keys)))
    assert (await signer(recording)).access_key == "ASIAPOD"
    assert service.requests[0].headers["authorization"] == "token-of-the-pod"


async def test_no_keys_anywhere_is_said_before_anything_is_sent(recording: RecordingS3) -> None:
    async with opened(recording, **NO_KEYS) as storage:
        with pytest.raises(CredentialsMissing, match="AWS_ACCESS_KEY_ID"):
            await storage.put(PACK, [b"x"])
    assert recording.requests == []
