"""Making the aiobotocore client: the only place that knows botocore's settings.

Imported when the first `s3://` URL is opened, never before: botocore takes a while and a lot of memory.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.parsers import AioResponseParserFactory
from aiobotocore.session import AioSession
from botocore.utils import parse_timestamp

from agent import _native
from agent.base.errors import BadCertificate
from agent.storage.no_proxy import is_excepted
from agent.storage.s3_config import AUTO_REGION, S3Config
from agent.storage.s3_models import LeanLoader

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

FALLBACK_REGION = "us-east-1"
_log = logging.getLogger(__name__)


async def open_client(stack: AsyncExitStack, config: S3Config, region: str) -> S3Client:
    """A client for `region` ("" or `auto`: what the environment says), closed with `stack`."""
    session = AioSession(profile=config.profile or None)
    if config.credentials_file:
        session.set_config_variable("credentials_file", config.credentials_file)
    factory = AioResponseParserFactory()
    factory.set_parser_defaults(timestamp_parser=parse_time)
    session.register_component("response_parser_factory", factory)
    session.register_component("data_loader", LeanLoader(_data_paths(session)))
    if region in ("", AUTO_REGION):
        region = _default_region(session, config)
    if config.insecure_skip_tls_verify:
        _log.warning(
            "TLS certificates are not verified: anybody on the way to %s can read and change requests", config.location
        )
    settings = AioConfig(
        signature_version="s3v4",
        s3={
            "addressing_style": "path" if config.use_path_style else "virtual",
            "payload_signing_enabled": config.sign_payload,
        },
        retries={"mode": "standard", "total_max_attempts": 1},  # the retry wrapper does that
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=config.max_connections,
        connect_timeout=config.connect_timeout,
        read_timeout=config.read_timeout,
        proxies=_proxies(config, os.environ),
        parameter_validation=False,
        user_agent_appid="lighterage",
    )
    client: S3Client = await stack.enter_async_context(
        session.create_client(
            "s3",
            region_name=region,
            endpoint_url=config.endpoint or None,
            verify=False if config.insecure_skip_tls_verify or _is_plain(config) else _trusted(stack, config) or None,
            aws_access_key_id=config.access_key or None,
            aws_secret_access_key=config.secret_key or None,
            aws_session_token=config.session_token or None,
            config=settings,
        )
    )
    events = client.meta.events
    events.register("before-sign.s3.DeleteObjects", _add_content_md5)
    events.register("before-send.s3", _expect_nothing)
    events.register("before-call.s3.HeadBucket", _follow_no_redirect)
    _native.return_free_pages()  # of the models' text nothing is kept
    return client


def _proxies(config: S3Config, environ: Mapping[str, str]) -> dict[str, str] | None:
    """As configured; else none for what NO_PROXY excepts, and for the rest what botocore finds in the environment."""
    if config.proxy:
        return {"http": config.proxy, "https": config.proxy}
    host = urlsplit(config.endpoint).hostname or ""
    return {} if host and is_excepted(environ, host) else None


def _is_plain(config: S3Config) -> bool:
    """No TLS anywhere on the way: the built-in certificates would be loaded, a megabyte of them, for nothing."""
    own = config.ca_data or config.ca_file
    return config.endpoint.lower().startswith("http://") and not config.proxy and not own


def _trusted(stack: AsyncExitStack, config: S3Config) -> str:
    """The file of certificates to trust, "" for the built-in ones. Text is kept in one for as long as the client."""
    if not config.ca_data:
        return config.ca_file
    try:
        ssl.create_default_context(cadata=config.ca_data)
    except (ssl.SSLError, ValueError) as error:
        raise BadCertificate(
            f"the certificates to trust for {config.location} are no PEM text: {error}",
            hint="give the text from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----",
        ) from error
    file = NamedTemporaryFile("w", prefix="lighterage-ca-", suffix=".pem")  # noqa: SIM115  # closed with the client
    stack.enter_context(file)
    file.write(config.ca_data)
    file.flush()
    return file.name


def _data_paths(session: AioSession) -> list[str]:
    """What `AWS_DATA_PATH` adds to botocore's own data."""
    configured = session.get_config_variable("data_path")
    return [os.path.expanduser(path) for path in configured.split(os.pathsep)] if configured else []


def _default_region(session: AioSession, config: S3Config) -> str:
    configured = session.get_config_variable("region")
    if isinstance(configured, str) and configured and configured != AUTO_REGION:
        return configured
    return AUTO_REGION if config.endpoint.endswith(".r2.cloudflarestorage.com") else FALLBACK_REGION


def _add_content_md5(request: Any, **_: object) -> None:
    """Stores older than AWS's flexible checksums want this header for batch deletes. The signature covers it."""
    headers = request.headers
    for name in [name for name in headers if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum-"))]:
        del headers[name]
    del headers["Content-MD5"]
    headers["Content-MD5"] = base64.b64encode(hashlib.md5(request.data, usedforsecurity=False).digest()).decode()


def _follow_no_redirect(params: dict[str, Any], **_: object) -> None:
    """botocore asks so where a bucket lives; a store that redirects that as well would be asked for ever."""
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _expect_nothing(request: Any, **_: object) -> None:
    """No `Expect: 100-continue`: it costs a round trip for each put."""
    request.headers.pop("Expect", None)


def parse_time(text: str) -> datetime:
    """botocore's timestamp parser with a short cut for the form of listings."""
    try:
        parsed = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        parsed = parse_timestamp(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
