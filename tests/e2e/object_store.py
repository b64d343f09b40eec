"""The bucket behind Velero's default location, as far as tests look into it."""

from __future__ import annotations

import base64
import configparser
import json
from typing import Any

import botocore.session
from botocore.config import Config

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster


class ObjectStore:
    """Opened with what the cluster itself says: location and secret."""

    def __init__(self, cluster: Cluster) -> None:
        location = cluster.get("BackupStorageLocation", "default", VELERO_NAMESPACE)
        secret = cluster.get("Secret", "cloud-credentials", VELERO_NAMESPACE)
        assert location is not None
        assert secret is not None
        credentials = configparser.ConfigParser()
        credentials.read_string(base64.b64decode(secret["data"]["cloud"]).decode())
        keys = credentials["default"]
        session = botocore.session.get_session()
        session.set_credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"])
        options = location["spec"]["config"]
        self.bucket = location["spec"]["objectStorage"]["bucket"]
        self._client: Any = session.create_client(
            "s3",
            region_name=options["region"],
            endpoint_url=options["s3Url"],
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    def write(self, name: str, value: object) -> None:
        """A value as JSON."""
        self._client.put_object(Bucket=self.bucket, Key=name, Body=json.dumps(value).encode())

    def read(self, name: str) -> Any:
        return json.loads(self._client.get_object(Bucket=self.bucket, Key=name)["Body"].read())

    def size(self, prefix: str = "") -> int:
        """Bytes of all objects below a prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return sum(found["Size"] for page in pages for found in page.get("Contents", []))

    def names(self, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]
