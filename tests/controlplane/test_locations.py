"""Storage locations as people configure them: keys, certificates and encryption of their own, read-only.

Numbers are those of the contract's acceptance list (§12).
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from agent.kube.job import Phase
from agent.kube.resource import DATA_UPLOADS
from agent.kube.selector import Selector
from agent.testing.control_plane_velero import NAMESPACE
from agent.testing.recording_proxy import RecordingProxy, RequestHead
from agent.testing.s3_server import KMS_KEY
from agent.testing.tcp_proxy import TcpProxy
from tests.controlplane.cluster import Cluster

ProxyT = TypeVar("ProxyT", bound=TcpProxy)


@pytest.fixture(scope="module")
def https(whole_cluster: Cluster) -> Iterator[str]:
    """The S3 server behind TLS, with a certificate that only the authority of the control plane vouches for."""
    keys = whole_cluster.plane.keys
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*keys.issue("s3"))
    with running(TcpProxy(whole_cluster.s3.port, tls=context)) as proxy:
        yield proxy.endpoint


@contextmanager
def running(proxy: ProxyT) -> Iterator[ProxyT]:
    """A proxy in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxy")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(10)
        try:
            yield proxy
        finally:
            asyncio.run_coroutine_threadsafe(proxy.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def location(cluster: Cluster, name: str, endpoint: str, *flags: str, **config: str) -> None:
    """A location in a bucket of its own, with keys that are in a secret and a profile of its own."""
    cluster.s3.create_bucket(name)
    keys = f"aws_access_key_id={cluster.s3.access_key}\naws_secret_access_key={cluster.s3.secret_key}\n"
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": {"keys": f"[default]\naws_access_key_id=nobody\naws_secret_access_key=none\n[{name}]\n{keys}"},
    }
    cluster.plane.apply(secret)
    config |= {"region": "us-east-1", "s3ForcePathStyle": "true", "s3Url": endpoint, "profile": name}
    cluster.velero.cli(
        "backup-location",
        "create",
        name,
        "--provider=aws",
        f"--bucket={name}",
        "--prefix=a/b",
        f"--credential={name}=keys",
        "--config=" + ",".join(f"{key}={value}" for key, value in config.items()),
        *flags,
    )
    cluster.eventually("it is available", lambda: cluster.velero.phase("backupstoragelocation", name) == "Available")


def change(cluster: Cluster, name: str, **spec: object) -> None:
    patch = f"--patch={json.dumps({'spec': spec})}"
    cluster.plane.kubectl("patch", "backupstoragelocation", name, f"--namespace={NAMESPACE}", "--type=merge", patch)


def assert_goes_out_and_comes_back(cluster: Cluster, name: str) -> None:
    namespace, folder = cluster.application()
    (folder / "file").write_bytes(os.urandom(300_000))
    flags = ["--snapshot-move-data", f"--storage-location={name}"]
    backup = cluster.back_up(*flags, namespace=namespace)
    uploads = cluster.objects(DATA_UPLOADS, NAMESPACE, Selector(labels={"velero.io/backup-name": backup}))
    assert [(upload.status.phase, upload.status.message) for upload in uploads] == [(Phase.COMPLETED, "")]
    assert cluster.velero.phase("backup", backup) == "Completed"
    change(cluster, name, accessMode="ReadOnly")
    restore, target = cluster.restore(backup, source=namespace)
    assert cluster.velero.phase("restore", restore) == "Completed"
    assert (cluster.storage.volume_of(target, "data") / "file").read_bytes() == (folder / "file").read_bytes()
    cluster.assert_clean()


@pytest.mark.check(42)
def test_check_42_keys_and_profile_of_its_own_and_a_restore_once_it_is_read_only(cluster: Cluster) -> None:
    location(cluster, "own-keys", cluster.s3.endpoint)
    assert_goes_out_and_comes_back(cluster, "own-keys")


@pytest.mark.check(42)
@pytest.mark.parametrize(
    ("config", "headers"),
    [
        ({"serverSideEncryption": "AES256"}, {"x-amz-server-side-encryption": "AES256"}),
        (
            {"serverSideEncryption": "aws:kms", "kmsKeyId": KMS_KEY},
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": KMS_KEY,
            },
        ),
    ],
    ids=["AES256", "aws-kms"],
)
def test_check_42_each_request_that_writes_asks_for_the_encryption_of_the_location(
    cluster: Cluster, config: dict[str, str], headers: dict[str, str]
) -> None:
    with running(RecordingProxy(cluster.s3.port)) as proxy:
        name = f"encrypted-{config['serverSideEncryption'].replace(':', '-').lower()}"
        location(cluster, name, proxy.endpoint, **config)
        assert_goes_out_and_comes_back(cluster, name)
        cluster.velero.cli("backup-location", "delete", name, "--confirm")
    ours = [request for request in proxy.requests if "boto" in request.headers["user-agent"].lower()]
    writing = [request for request in ours if writes_an_object(request)]
    reading = [request for request in ours if request.method == "GET"]
    assert len(writing) >= 3 and reading  # a pack, its index, the snapshot
    assert [request for request in writing if not headers.items() <= request.headers.items()] == []
    assert [request for request in reading if request.headers.keys() & headers.keys()] == []


def writes_an_object(request: RequestHead) -> bool:
    """A part of an upload is encrypted as its first request asked for."""
    return (request.method == "PUT" and "uploadId=" not in request.target) or request.target.endswith("?uploads")


@pytest.mark.slow
@pytest.mark.check(42)
def test_check_42_a_certificate_of_the_location(cluster: Cluster, https: str) -> None:
    location(cluster, "own-authority", https, f"--cacert={cluster.plane.keys.authority}")
    assert_goes_out_and_comes_back(cluster, "own-authority")


@pytest.mark.slow
@pytest.mark.check(42)
def test_check_42_a_certificate_in_a_secret(cluster: Cluster, https: str) -> None:
    if not cluster.knows("backupstoragelocations", "spec", "objectStorage", "caCertRef"):
        pytest.skip("before 1.18 a location has no reference to its certificates")
    data = {"ca.crt": cluster.plane.keys.authority.read_text()}
    metadata = {"name": "authority", "namespace": NAMESPACE}
    cluster.plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
    name = "secret-authority"
    location(cluster, name, https, f"--cacert={cluster.plane.keys.authority}")
    change(cluster, name, objectStorage={"caCert": None, "caCertRef": {"name": "authority", "key": "ca.crt"}})
    assert_goes_out_and_comes_back(cluster, name)


@pytest.mark.slow
@pytest.mark.check(42)
def test_check_42_certificates_are_not_looked_at_where_that_is_configured(cluster: Cluster, https: str) -> None:
    location(cluster, "any-authority", https, insecureSkipTLSVerify="true")
    assert_goes_out_and_comes_back(cluster, "any-authority")
