"""From a backup storage location to where a repository is."""

import pytest

from agent.base.errors import LocationInvalid, LocationUnsupported
from agent.jobs import location as location_module
from agent.jobs.location import locate
from agent.movers.spec import S3Location, UrlLocation
from tests.unit.jobs.jobs_kit import bucket, folder, without_storage


@pytest.mark.check(42)
@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({}, {"endpoint": "", "region": "auto", "path_style": None, "insecure_skip_tls_verify": False}),
        ({"region": "eu-central-1"}, {"region": "eu-central-1"}),
        ({"region": "auto", "s3Url": "https://x.r2.cloudflarestorage.com"}, {"region": "auto"}),
        ({"s3Url": "http://minio.storage.svc:9000"}, {"endpoint": "http://minio.storage.svc:9000"}),
        ({"s3Url": "https://minio.example/"}, {"endpoint": "https://minio.example"}),
        ({"s3Url": "https://[fd00::1]:9000"}, {"endpoint": "https://[fd00::1]:9000"}),
        ({"s3ForcePathStyle": "true"}, {"path_style": True}),
        ({"s3ForcePathStyle": "false"}, {"path_style": False}),
        ({"insecureSkipTLSVerify": "T"}, {"insecure_skip_tls_verify": True}),
        ({"profile": "backup"}, {"profile": "backup"}),
        ({"kmsKeyId": "alias/x"}, {"sse": "aws:kms", "sse_kms_key_id": "alias/x"}),
        ({"kmsKeyId": "k", "serverSideEncryption": "AES256"}, {"sse": "aws:kms", "sse_kms_key_id": "k"}),
        ({"serverSideEncryption": "AES256"}, {"sse": "AES256", "sse_kms_key_id": ""}),
        ({"serverSideEncryption": "aws:kms"}, {"sse": "aws:kms"}),
        ({"checksumAlgorithm": "SHA256"}, {"checksum": "SHA256"}),
        ({"checksumAlgorithm": "crc32"}, {"checksum": "CRC32"}),
        ({"checksumAlgorithm": ""}, {"checksum": ""}),
        ({"tagging": "team=a%20b&empty="}, {"tags": (("team", "a b"), ("empty", ""))}),
        ({"signatureVersion": "4", "publicUrl": "https://x", "enableSharedConfig": "true"}, {}),
    ],
)
def test_each_key_of_a_bucket_says_what_it_says_to_velero(config, fields):
    found = locate(bucket(config), "shop")
    assert isinstance(found.location, S3Location)
    assert {name: getattr(found.location, name) for name in fields} == fields
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("prefix", "whole"),
    [
        ("", "kopia/shop/"),
        ("velero", "velero/kopia/shop/"),
        ("/a//b/", "a/b/kopia/shop/"),
        ("a/./b", "a/b/kopia/shop/"),
        ("ключ", "ключ/kopia/shop/"),
    ],
)
def test_the_prefix_is_joined_as_velero_joins_it(prefix, whole):
    assert locate(bucket(prefix=prefix), "shop").location.prefix == whole


@pytest.mark.parametrize("provider", ["aws", "velero.io/aws", "example.io/other"])
def test_every_provider_with_an_s3_url_speaks_s3(provider):
    found = locate(bucket({"s3Url": "https://s3.example"}, provider=provider), "shop")
    assert found.location == S3Location(bucket="backups", prefix="kopia/shop/", endpoint="https://s3.example")


@pytest.mark.parametrize("provider", ["azure", "velero.io/gcp", "example.io/other"])
def test_a_provider_that_is_not_known_is_refused_by_name(provider):
    with pytest.raises(LocationUnsupported, match=provider):
        locate(bucket(provider=provider), "shop")


def test_azure_stays_azure_whatever_url_it_has():
    with pytest.raises(LocationUnsupported, match="azure"):
        locate(bucket({"s3Url": "https://x"}, provider="azure"), "shop")


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"s3Url": "https://minio.example/path"}, "s3Url"),
        ({"s3Url": "https://minio.example?x=1"}, "s3Url"),
        ({"s3Url": "https://u:p@minio.example"}, "s3Url"),
        ({"s3Url": "minio:9000"}, "s3Url"),
        ({"s3Url": "ftp://minio"}, "s3Url"),
        ({"s3Url": "https://minio:99999"}, "s3Url"),
        ({"s3Url": "https://minio\r\nX-Evil: 1"}, "s3Url"),
        ({"region": "eu\nX"}, "region"),
        ({"region": "eu.evil.example/"}, "region"),
        ({"s3ForcePathStyle": "yes"}, "s3ForcePathStyle"),
        ({"insecureSkipTLSVerify": "nope"}, "insecureSkipTLSVerify"),
        ({"serverSideEncryption": "ROT13"}, "serverSideEncryption"),
        ({"kmsKeyId": "k\x00"}, "kmsKeyId"),
        ({"checksumAlgorithm": "MD4"}, "checksumAlgorithm"),
        ({"tagging": "novalue"}, "tagging"),
        ({"tagging": "&".join(f"k{n}=v" for n in range(60))}, "tagging"),
        ({"profile": "x" * 2000}, "profile"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_its_key(config, key):
    with pytest.raises(LocationInvalid, match=f"default .*config.{key} "):
        locate(bucket(config), "shop")


@pytest.mark.parametrize("prefix", ["..", "a/../../b", "a\nb", "x" * 2000])
def test_a_prefix_that_leads_elsewhere_is_refused(prefix):
    with pytest.raises(LocationInvalid, match=r"objectStorage.prefix"):
        locate(bucket(prefix=prefix), "shop")


@pytest.mark.parametrize("name", ["a/b", "bucket\n", "", ".."])
def test_a_bucket_that_no_store_can_have_is_refused(name):
    with pytest.raises(LocationInvalid, match="bucket"):
        locate(bucket(bucket=name), "shop")


def test_a_location_without_a_bucket_is_refused():
    with pytest.raises(LocationInvalid):
        locate(without_storage(bucket()), "shop")


@pytest.mark.parametrize("namespace", ["", "..", "a/b", "Shop", "x" * 64])
def test_a_namespace_that_cannot_exist_has_no_repository(namespace):
    with pytest.raises(LocationInvalid, match="namespace"):
        locate(bucket(), namespace)


def test_a_key_that_nobody_knows_is_told_and_has_no_effect():
    found = locate(bucket({"regoin": "eu", "region": "eu"}), "shop")
    assert found.location.region == "eu"
    assert found.warnings == ("backup storage location default: config.'regoin' is not known and has no effect",)


def test_a_customer_key_is_not_used_for_what_velero_has_to_read():
    found = locate(bucket({"customerKeyEncryptionFile": "/x/key"}), "shop")
    assert found.location.sse == "" and "customerKeyEncryptionFile" in found.warnings[0]


def test_a_checksum_that_cannot_be_computed_here_gives_way_to_one_that_can(monkeypatch):
    monkeypatch.setattr(location_module, "find_spec", lambda _: None)
    found = locate(bucket({"checksumAlgorithm": "CRC32C"}), "shop")
    assert found.location.checksum == "CRC32" and "CRC32C" in found.warnings[0]


def test_certificates_go_with_the_bucket():
    assert locate(bucket(), "shop", "PEM").location.ca_data == "PEM"


def test_a_folder_is_a_url_below_its_root(tmp_path):
    found = locate(folder("/mnt/my backups"), "shop")
    assert found.location == UrlLocation(url="file:///mnt/my%20backups/kopia/shop/")
    assert found.endpoint == ""


@pytest.mark.parametrize("path", ["", "relative", "/a/../b", "/a\nb"])
def test_a_folder_that_leads_elsewhere_is_refused(path):
    with pytest.raises(LocationInvalid, match="fspath"):
        locate(folder(path), "shop")
