"""What botocore and the store say, translated into the one error tree. Nothing secret passes through here."""

from __future__ import annotations

import errno
import math
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import botocore.exceptions as boto

from agent.base.errors import (
    AccessDenied,
    BadCertificate,
    BlobExists,
    BlobNotFound,
    BlobTooShort,
    BucketNotFound,
    ConnectionRefused,
    CredentialsMissing,
    NameResolutionFailed,
    OutOfSpace,
    StorageClockSkew,
    StorageError,
    StorageUnavailable,
    StorageUnsupported,
    TokenExpired,
    WrongRegion,
)

_KEYS = "check the access key and secret key"
_PERMISSIONS = "check that the credentials may list, read, write and delete in this bucket"
_LATER = "the store may answer again soon"
_UNSUPPORTED = "the store lacks this feature; leave the option out"

_Leaf = tuple[type[StorageError], str]
_CODES: Mapping[str, _Leaf] = {
    "NoSuchKey": (BlobNotFound, ""),
    "NoSuchBucket": (BucketNotFound, "create the bucket or correct its name"),
    "InvalidBucketName": (BucketNotFound, "correct the bucket's name"),
    "AccessDenied": (AccessDenied, _PERMISSIONS),
    "AllAccessDisabled": (AccessDenied, _PERMISSIONS),
    "AccountProblem": (AccessDenied, "the account behind these credentials has a problem"),
    "Forbidden": (AccessDenied, _PERMISSIONS),
    "InvalidAccessKeyId": (AccessDenied, _KEYS),
    "SignatureDoesNotMatch": (AccessDenied, _KEYS),
    "InvalidSecurity": (AccessDenied, _KEYS),
    "InvalidToken": (AccessDenied, "the session token is malformed or belongs to other keys"),
    "KMS.DisabledException": (AccessDenied, "the KMS key is disabled"),
    "KMS.NotFoundException": (AccessDenied, "the KMS key does not exist"),
    "InvalidObjectState": (AccessDenied, "the blob lies in an archive class; restore it to a readable one first"),
    "ExpiredToken": (TokenExpired, "renew the session token"),
    "ExpiredTokenException": (TokenExpired, "renew the session token"),
    "TokenRefreshRequired": (TokenExpired, "renew the session token"),
    "RequestExpired": (TokenExpired, "renew the session token"),
    "AuthorizationHeaderMalformed": (WrongRegion, "set region=… to where the bucket lives"),
    "PermanentRedirect": (WrongRegion, "set region=… to where the bucket lives"),
    "IllegalLocationConstraintException": (WrongRegion, "set region=… to where the bucket lives"),
    "RequestTimeTooSkewed": (StorageClockSkew, "set this machine's clock"),
    "PreconditionFailed": (BlobExists, ""),
    "ObjectAlreadyExists": (BlobExists, ""),
    "InvalidRange": (BlobTooShort, ""),
    "NotImplemented": (StorageUnsupported, _UNSUPPORTED),
    "MethodNotAllowed": (StorageUnsupported, _UNSUPPORTED),
    "InvalidStorageClass": (StorageUnsupported, "choose a storage class that the store knows"),
    "QuotaExceeded": (OutOfSpace, "free some space or raise the quota"),
    "XMinioStorageFull": (OutOfSpace, "free some space or add some"),
    "EntityTooLarge": (StorageUnsupported, "the store does not take blobs of this size"),
    **dict.fromkeys(
        (
            "SlowDown",
            "Throttling",
            "ThrottlingException",
            "RequestLimitExceeded",
            "TooManyRequests",
            "BandwidthLimitExceeded",
            "ServiceUnavailable",
            "InternalError",
            "InternalFailure",
            "InternalServerError",
            "RequestTimeout",
            "RequestTimeoutException",
            "IncompleteBody",
            "OperationAborted",
            "ConditionalRequestConflict",
            "BadDigest",
            "NoSuchUpload",
        ),
        (StorageUnavailable, _LATER),
    ),
}
_STATUSES: Mapping[int, _Leaf] = {
    301: (WrongRegion, "set region=… to where the bucket lives"),
    307: (StorageUnavailable, _LATER),
    401: (AccessDenied, _KEYS),
    403: (AccessDenied, _PERMISSIONS),
    404: (BlobNotFound, ""),
    405: (StorageUnsupported, _UNSUPPORTED),
    408: (StorageUnavailable, _LATER),
    409: (StorageUnavailable, _LATER),
    412: (BlobExists, ""),
    416: (BlobTooShort, ""),
    429: (StorageUnavailable, _LATER),
    501: (StorageUnsupported, _UNSUPPORTED),
    507: (OutOfSpace, "free some space or raise the quota"),
}
_CREDENTIALS: tuple[type[Exception], ...] = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.MetadataRetrievalError,
    boto.ProfileNotFound,
    boto.ConfigNotFound,
    boto.ConfigParseError,
    boto.TokenRetrievalError,
)

TRANSLATED: tuple[type[Exception], ...] = (
    boto.BotoCoreError,
    boto.ClientError,
    aiohttp.ClientError,
    OSError,
    TimeoutError,
)
"""What calls of the client may raise."""


def storage_error(error: Exception, attempt: str, location: str) -> StorageError:
    """The leaf for `error`. `attempt` completes "cannot …", `location` is a URL without secrets."""
    where = f"cannot {attempt} in {location}"
    if isinstance(error, boto.ClientError):
        return _answered(error, where)
    if isinstance(error, _CREDENTIALS):
        return CredentialsMissing(
            f"{where}: {error}", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile"
        )
    if isinstance(error, boto.ParamValidationError | boto.InvalidRegionError | boto.UnsupportedS3ConfigurationError):
        return StorageUnsupported(f"{where}: {error}", hint="correct the options of the storage URL")
    return _not_answered(error, where)


def response_code(error: Exception) -> tuple[str, int]:
    """(error code, HTTP status) of an answered request; ("", 0) for anything else."""
    if not isinstance(error, boto.ClientError):
        return "", 0
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(error.response.get("Error", {}).get("Code", "")), int(status)


def right_region(error: Exception) -> str:
    """The region that an answer says the bucket lives in, or ""."""
    if not isinstance(error, boto.ClientError):
        return ""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    said = error.response.get("Error", {})
    return str(headers.get("x-amz-bucket-region") or said.get("Region") or "")


def _answered(error: boto.ClientError, where: str) -> StorageError:
    code, status = response_code(error)
    said = str(error.response.get("Error", {}).get("Message", "")).strip()[:300]
    message = f"{where}: {said or code or 'no reason given'} (HTTP {status}{', ' + code if code else ''})"
    leaf, hint = _CODES.get(code) or _STATUSES.get(status) or (StorageError, "")
    if leaf is StorageUnavailable or (status >= 500 and leaf is StorageError):
        return StorageUnavailable(message, hint=hint or _LATER, retry_after=_retry_after(error))
    if leaf is WrongRegion and (region := right_region(error)):
        hint = f"set region={region}"
    return leaf(message, hint=hint)


def _retry_after(error: boto.ClientError) -> float | None:
    text = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0) if moment.tzinfo else None


def _not_answered(error: Exception, where: str) -> StorageError:
    chain = _causes(error)
    for cause in chain:
        if found := _network_error(cause, where):
            return found
    reason = _reason(chain[-1])
    if any(isinstance(cause, FileNotFoundError | PermissionError) for cause in chain):
        return StorageError(f"{where}: {reason}", hint="check the files that the options name")
    if isinstance(error, boto.SSLError):
        return BadCertificate(f"{where}: TLS failed: {reason}", hint="check the endpoint and its TLS set-up")
    return StorageUnavailable(f"{where}: {reason}", hint=_LATER)


def _network_error(cause: BaseException, where: str) -> StorageError | None:
    if isinstance(cause, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError):
        return BadCertificate(
            f"{where}: the endpoint's certificate is not trusted: {_reason(cause)}",
            hint="give its authority as ca_file=…, or correct the host name",
        )
    if isinstance(cause, socket.gaierror):
        return NameResolutionFailed(f"{where}: {_reason(cause)}", hint="check the endpoint's host name and the DNS")
    if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
        return ConnectionRefused(f"{where}: {_reason(cause)}", hint="check that the store runs at this endpoint")
    if isinstance(cause, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(cause).upper().replace(" ", "_"):
        return StorageError(f"{where}: the endpoint does not speak TLS", hint="write http:// or use another port")
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """`error` and what led to it, outermost first."""
    chain: list[BaseException] = []
    todo: BaseException | None = error
    while todo is not None and todo not in chain:
        chain.append(todo)
        wrapped = getattr(todo, "kwargs", {}).get("error") if isinstance(todo, boto.BotoCoreError) else None
        inner = getattr(todo, "os_error", None)
        todo = next(
            (c for c in (wrapped, inner, todo.__cause__, todo.__context__) if isinstance(c, BaseException)), None
        )
    return chain


def _reason(error: BaseException) -> str:
    return str(error)[:300] or type(error).__name__
