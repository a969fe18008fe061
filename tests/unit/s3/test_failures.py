"""Each answer of S3, and what it means to callers."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from botocore import exceptions as sdk
from yoban import errors
from yoban.plugins import AlreadyExists
from yoban_s3.failures import from_answer, mapped, raise_first


def answer(code: str, status: int, **headers: str) -> sdk.ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": "words"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return sdk.ClientError(response, "GetObject")


ANSWERS = [
    ("NoSuchKey", 404, errors.NotFound),
    ("404", 404, errors.NotFound),
    ("NoSuchUpload", 404, errors.NotFound),
    ("NoSuchBucket", 404, errors.NotReady),
    ("AccessDenied", 403, errors.AccessDenied),
    ("403", 403, errors.AccessDenied),
    ("InvalidAccessKeyId", 403, errors.AccessDenied),
    ("SignatureDoesNotMatch", 403, errors.AccessDenied),
    ("RequestTimeTooSkewed", 403, errors.AccessDenied),
    ("ExpiredToken", 400, errors.AccessDenied),
    ("", 401, errors.AccessDenied),
    ("PreconditionFailed", 412, AlreadyExists),
    ("412", 412, AlreadyExists),
    ("ConditionalRequestConflict", 409, errors.Unavailable),
    ("OperationAborted", 409, errors.Unavailable),
    ("SomethingElse", 409, errors.Unavailable),
    ("SlowDown", 503, errors.Unavailable),
    ("ServiceUnavailable", 503, errors.Unavailable),
    ("InternalError", 500, errors.Unavailable),
    ("InternalError", 200, errors.Unavailable),
    ("502", 502, errors.Unavailable),
    ("RequestTimeout", 400, errors.Unavailable),
    ("BadDigest", 400, errors.Unavailable),
    ("XAmzContentChecksumMismatch", 400, errors.Unavailable),
    ("TooManyRequests", 429, errors.Unavailable),
    ("PermanentRedirect", 301, errors.InvalidInput),
    ("AuthorizationHeaderMalformed", 400, errors.InvalidInput),
    ("InvalidBucketName", 400, errors.InvalidInput),
    ("InvalidPart", 400, errors.InvalidInput),
    ("NotImplemented", 501, errors.Unsupported),
    ("MethodNotAllowed", 405, errors.Unsupported),
    ("Weird404", 404, errors.Unavailable),
    ("", 404, errors.Unavailable),
    ("XAdminUserNotFound", 404, errors.AccessDenied),
    ("", 0, errors.Unavailable),
    ("", 204, errors.Unavailable),
]


@pytest.mark.parametrize(("code", "status", "kind"), ANSWERS)
def test_an_answer_means(code: str, status: int, kind: type[errors.YobanError]) -> None:
    with pytest.raises(kind) as error, mapped("the/key", "the-bucket"):
        raise answer(code, status)
    assert type(error.value) is kind
    assert error.value.object in ("the/key", "bucket the-bucket")


def test_failure_11_only_an_absent_key_is_not_found() -> None:
    """A missing bucket, a proxy's 404 and an answer without a code say nothing about the object."""
    absent = [(code, status) for code, status, kind in ANSWERS if kind is errors.NotFound]
    assert all(status == 404 for _, status in absent)
    assert not isinstance(from_answer(answer("NoSuchBucket", 404), "k", "b"), errors.NotFound)
    assert not isinstance(from_answer(answer("NoSuchKey", 500), "k", "b"), errors.NotFound)


def test_the_store_s_wish_to_wait_is_passed_on() -> None:
    for text, seconds in (("7", 7.0), ("100000", 60.0), ("-1", 0.0), ("soon", None)):
        error = from_answer(answer("SlowDown", 503, **{"retry-after": text}), "k", "b")
        assert isinstance(error, errors.Unavailable)
        assert error.retry_after == seconds


SDK = [
    (sdk.ReadTimeoutError(endpoint_url="http://x"), errors.DeadlineExceeded),
    (sdk.ConnectTimeoutError(endpoint_url="http://x"), errors.DeadlineExceeded),
    (TimeoutError(), errors.DeadlineExceeded),
    (sdk.NoCredentialsError(), errors.AccessDenied),
    (sdk.PartialCredentialsError(provider="env", cred_var="x"), errors.AccessDenied),
    (sdk.SSLError(endpoint_url="https://x", error="bad"), errors.Unavailable),
    (sdk.EndpointConnectionError(endpoint_url="http://x"), errors.Unavailable),
    (sdk.ConnectionClosedError(endpoint_url="http://x"), errors.Unavailable),
    (sdk.HTTPClientError(error="x"), errors.Unavailable),
    (sdk.ResponseStreamingError(error="x"), errors.Unavailable),
    (aiohttp.ClientPayloadError("x"), errors.Unavailable),
    (ConnectionResetError(), errors.Unavailable),
]


@pytest.mark.parametrize(("raised", "kind"), SDK, ids=[type(raised).__name__ for raised, _ in SDK])
def test_a_failure_of_the_way_means(raised: Exception, kind: type[errors.YobanError]) -> None:
    with pytest.raises(kind) as error, mapped("the/key", "b"):
        raise raised
    assert error.value.object == "the/key"


def test_what_is_no_failure_of_the_store_passes() -> None:
    with pytest.raises(KeyError), mapped("k", "b"):
        raise KeyError("ours")


def test_a_multi_object_delete_raises_for_what_stayed() -> None:
    raise_first([], "b")
    raise_first([{"Key": "k", "Code": "NoSuchKey"}], "b")
    for code, kind in (
        ("AccessDenied", errors.AccessDenied),
        ("SlowDown", errors.Unavailable),
        ("Odd", errors.Unavailable),
    ):
        with pytest.raises(kind) as error:
            raise_first([{"Key": "k1", "Code": "NoSuchVersion"}, {"Key": "k2", "Code": code}], "b")
        assert error.value.object == "k2"
