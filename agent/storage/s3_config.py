"""How to reach a bucket and what to ask of it: parsed from a URL, checked once, without secrets in its `repr`."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from agent.base.errors import UsageError

AUTO_REGION = "auto"
PARALLEL_PUTS = 2
"""Large puts at once that are of use: while one waits for its answer, another sends."""
CHECKSUMS = frozenset({"", "MD5", "CRC32", "CRC32C", "SHA1", "SHA256"})

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]\Z")
_MIB = 1 << 20
_MIN_PART = 5 * _MIB
_MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Config:
    """One bucket, or a prefix in it. Empty strings mean "not set"."""

    bucket: str
    prefix: str = ""
    """Put before every blob id as it is."""
    endpoint: str = ""
    """`http(s)://host[:port]`; AWS when empty."""
    region: str = AUTO_REGION
    """`auto`: what the environment or profile says, else asked of the bucket."""
    path_style: bool | None = None
    """None: virtual-hosted for AWS, path style for other endpoints."""

    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    """When keys are not given: environment, profile, credential files, web identity, container and instance roles."""
    profile: str = ""
    credentials_file: str = ""

    ca_file: str = ""
    """PEM certificates to trust instead of the built-in ones."""
    ca_data: str = field(default="", repr=False)
    """The same as text, as a backup storage location's `caCert` holds it."""
    insecure_skip_tls_verify: bool = False
    proxy: str = field(default="", repr=False)
    """`http://[user:password@]host:port`; else HTTPS_PROXY, HTTP_PROXY and NO_PROXY count."""

    sse: str = ""
    """`AES256` or `aws:kms`."""
    sse_kms_key_id: str = ""
    sse_customer_key: bytes = field(default=b"", repr=False)
    """32 bytes: SSE-C."""
    storage_class: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    checksum: str = ""
    """Sent with every put: `MD5`, `CRC32`, `CRC32C`, `SHA1` or `SHA256`. Contents carry a hash of their own anyway."""
    sign_payload: bool = False
    """Whether the signature covers the bodies of puts (costs a SHA-256 of everything)."""

    multipart_threshold: int = 64 * _MIB
    """Bytes from which a blob is put in parts."""
    multipart_part_size: int = 16 * _MIB
    multipart_parallel: int = 4
    """Parts in flight, over all puts."""
    max_connections: int = 32
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    """Seconds without a byte."""

    def __post_init__(self) -> None:
        if not _BUCKET.match(self.bucket):
            raise UsageError(f"{self.bucket!r} is no bucket name", hint="write s3://bucket/prefix")
        if self.endpoint:
            _check_endpoint(self.endpoint)
        if self.ca_file and self.ca_data:
            raise UsageError("give certificates to trust either as a file or as text")
        if bool(self.access_key) != bool(self.secret_key):
            raise UsageError("an access key and its secret key belong together")
        if self.sse not in ("", "AES256", "aws:kms"):
            raise UsageError(f"unknown server-side encryption {self.sse!r}", hint="AES256 or aws:kms")
        if self.sse_kms_key_id and self.sse != "aws:kms":
            raise UsageError("a KMS key needs sse=aws:kms")
        if self.sse_customer_key and (self.sse or len(self.sse_customer_key) != 32):
            raise UsageError("a customer key for encryption has 32 bytes and excludes sse=…")
        if self.checksum not in CHECKSUMS:
            raise UsageError(f"unknown checksum {self.checksum!r}", hint=", ".join(sorted(CHECKSUMS - {""})))
        if self.checksum == "CRC32C" and find_spec("awscrt") is None:
            raise UsageError(
                "checksum=CRC32C needs the Python package awscrt, which is not installed",
                hint="install awscrt, or use checksum=CRC32 or checksum=SHA256",
            )
        if self.multipart_part_size < _MIN_PART or self.multipart_parallel < 1 or self.max_connections < 1:
            raise UsageError("parts have at least 5 MiB, and at least one of them and one connection is needed")

    @property
    def use_path_style(self) -> bool:
        """Whether the bucket goes into the path of a request rather than its host name."""
        return bool(self.endpoint) if self.path_style is None else self.path_style

    @property
    def location(self) -> str:
        """A URL for people, without secrets."""
        return f"s3://{self.bucket}/{self.prefix}" + (f"?endpoint={self.endpoint}" if self.endpoint else "")

    def part_size(self, length: int) -> int:
        """Bytes of each part of a blob of `length` bytes: at most 10,000 parts."""
        return max(self.multipart_part_size, -(-length // _MAX_PARTS))


def split_url(url: str) -> SplitResult:
    """The parts of a storage URL. Raises `UsageError`."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise UsageError(
            f"storage URL {url!r} cannot be understood: {error}", hint="use file:///abs/path or s3://bucket/prefix"
        ) from error


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    if not port_is_fine or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"endpoint {endpoint!r} cannot be understood", hint="write https://host or http://host:port")
    if parts.username is not None or parts.password is not None:
        raise UsageError("an endpoint must not hold credentials", hint="put them into the environment or a profile")


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("not true or false")
    return text.lower() in ("true", "1", "yes")


def _tags(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(parse_qsl(text, strict_parsing=True, keep_blank_values=True))


def _size(text: str) -> int:
    import humanfriendly  # noqa: PLC0415  # slow to import, seldom needed

    return int(humanfriendly.parse_size(text, binary=True))


def _text(text: str) -> str:
    return text


URL_OPTIONS: Mapping[str, Callable[[str], object]] = {
    "prefix": _text,
    "endpoint": _text,
    "region": _text,
    "path_style": _boolean,
    "profile": _text,
    "credentials_file": _text,
    "ca_file": _text,
    "insecure_skip_tls_verify": _boolean,
    "sse": _text,
    "sse_kms_key_id": _text,
    "storage_class": _text,
    "tags": _tags,
    "checksum": str.upper,
    "sign_payload": _boolean,
    "multipart_threshold": _size,
    "multipart_part_size": _size,
    "multipart_parallel": int,
    "max_connections": int,
    "connect_timeout": float,
    "read_timeout": float,
}
"""What a URL may say. Secrets are not among it: URLs end up in process lists and logs."""


def parse_s3_url(url: str, environment: Mapping[str, str]) -> S3Config:
    """`s3://bucket/prefix?endpoint=…&region=…&path_style=true` with any field of `S3Config` that is no secret.

    A prefix in the path gets a final `/`; `?prefix=` is taken as it is. `LIGHTERAGE_S3_PROXY` and
    `LIGHTERAGE_S3_CUSTOMER_KEY` (base64) come from `environment`, and so does `AWS_ENDPOINT_URL_S3` or
    `AWS_ENDPOINT_URL` when the URL names no endpoint. Raises `UsageError`.
    """
    parts = split_url(url)
    if parts.username is not None or parts.password is not None:
        raise UsageError("a storage URL must not hold credentials", hint="put them into the environment or a profile")
    prefix = unquote(parts.path.lstrip("/"))
    values: dict[str, object] = {
        "bucket": parts.netloc,
        "prefix": prefix if not prefix or prefix.endswith("/") else prefix + "/",
        "endpoint": environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or "",
        "proxy": environment.get("LIGHTERAGE_S3_PROXY", ""),
    }
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        parse = URL_OPTIONS.get(name)
        if parse is None:
            raise UsageError(
                f"storage URL has an unknown option {name!r}", hint="known: " + ", ".join(sorted(URL_OPTIONS))
            )
        try:
            values[name] = parse(text)
        except Exception as error:
            raise UsageError(f"storage URL option {name}={text!r} cannot be understood: {error}") from error
    if key := environment.get("LIGHTERAGE_S3_CUSTOMER_KEY"):
        try:
            values["sse_customer_key"] = base64.b64decode(key, validate=True)
        except binascii.Error as error:
            raise UsageError("LIGHTERAGE_S3_CUSTOMER_KEY is not base64") from error
    return S3Config(**values)  # type: ignore[arg-type]  # each value has its parser's type
