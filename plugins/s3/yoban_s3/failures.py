"""What the SDK's failures mean.

Guarantees: `NotFound` comes only from an answer that names the key as absent; an answer that did not arrive, or that
says "not now", is `Retryable`. A missing bucket is `NotReady`: it says nothing about any object. No message holds a
secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from botocore import exceptions as sdk
from yoban.errors import (
    AccessDenied,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    NotReady,
    Unavailable,
    Unsupported,
    YobanError,
)
from yoban.plugins import AlreadyExists

_ABSENT = {"NoSuchKey", "NoSuchUpload", "NotFound", "404"}
_DENIED = {
    "AccessDenied",
    "AllAccessDisabled",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "AccountProblem",
    "XAdminUserNotFound",  # versitygw's answer, with status 404, to an unknown access key
    "InvalidObjectState",
}
_BUSY = {
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "InternalError",
    "ServiceUnavailable",
    "ConditionalRequestConflict",
    "OperationAborted",
    # The body changed on its way: the next try may bring it whole.
    "BadDigest",
    "IncompleteBody",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301", "307"}
_NO_BUCKET = {"NoSuchBucket"}
_EXISTS = {"PreconditionFailed"}


def code_of(error: sdk.ClientError) -> tuple[str, int]:
    """Return the error code that the server named, and the HTTP status."""
    answer: dict[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    return code, int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)


@contextmanager
def mapped(object: str, bucket: str) -> Iterator[None]:
    """Turn what the SDK raises inside the block into our errors, about `object`."""
    try:
        yield
    except sdk.ClientError as error:
        raise from_answer(error, object, bucket) from error
    except (sdk.ReadTimeoutError, sdk.ConnectTimeoutError, TimeoutError) as error:
        raise DeadlineExceeded(
            "the store did not answer in time", object=object, cause=_text(error), fix=_CHECK
        ) from error
    except (sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.CredentialRetrievalError) as error:
        raise AccessDenied(
            "there are no credentials for the store",
            object=object,
            cause=_text(error),
            fix="name a credentials Secret, or give the workload an identity",
        ) from error
    except sdk.SSLError as error:
        raise Unavailable(
            "no trusted connection to the store",
            object=object,
            cause=_text(error),
            fix="check the endpoint and caBundle",
            reason="TlsFailed",
        ) from error
    except (sdk.HTTPClientError, sdk.BotoCoreError, aiohttp.ClientError, OSError) as error:
        raise Unavailable("the store cannot be reached", object=object, cause=_text(error), fix=_CHECK) from error


_CHECK = "check the endpoint, the network and the store"


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def from_answer(error: sdk.ClientError, object: str, bucket: str) -> YobanError:
    """Return what an error answer of the server means."""
    code, status = code_of(error)
    cause = f"{code or 'no code'}, status {status}"
    if code in _NO_BUCKET:
        return NotReady(
            "the bucket does not exist",
            object=f"bucket {bucket}",
            cause=cause,
            fix="create it, or set create: true",
            reason="NoSuchBucket",
        )
    if code in _EXISTS or status == 412:
        return AlreadyExists("there is an object already", object=object, cause=cause)
    if code in _BUSY or status in (408, 429) or (status >= 500 and status != 501):
        return Unavailable("the store cannot do it now", object=object, cause=cause, retry_after=_retry_after(error))
    if code in _REGION or status in (301, 307):
        return InvalidInput(
            "the bucket is in another region",
            object=f"bucket {bucket}",
            cause=cause,
            fix="set the region of the bucket",
        )
    if code in _DENIED or status in (401, 403):
        fix = (
            "check the clock of this machine"
            if code == "RequestTimeTooSkewed"
            else "check the credentials and their rights"
        )
        return AccessDenied("the store denies it", object=object, cause=cause, fix=fix)
    if code in _ABSENT and status in (0, 404):
        return NotFound("there is no such object", object=object, cause=cause)
    if status == 501 or code in ("NotImplemented", "MethodNotAllowed"):
        return Unsupported("the store does not have this operation", object=object, cause=cause)
    if status == 409:
        return Unavailable("something else happens to the object or bucket now", object=object, cause=cause)
    if 400 <= status < 500 and status != 404:  # a 404 that names nothing may be a proxy's
        return InvalidInput("the store refuses the request", object=object, cause=cause)
    return Unavailable("the store gave an answer that means nothing", object=object, cause=cause)


def _retry_after(error: sdk.ClientError) -> float | None:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return min(60.0, max(0.0, float(headers.get("retry-after", ""))))
    except ValueError:
        return None


def raise_first(errors: Iterable[dict[str, str]], bucket: str) -> None:
    """Raise what the first entry of a multi-object delete's errors means."""
    for entry in errors:
        code = entry.get("Code", "")
        if code in ("NoSuchKey", "NoSuchVersion"):
            continue
        status = {"AccessDenied": 403, "InternalError": 500, "SlowDown": 503}.get(code, 500)
        answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise from_answer(sdk.ClientError(answer, "DeleteObjects"), entry.get("Key", ""), bucket)
