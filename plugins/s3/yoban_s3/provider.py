"""What the provider `s3` is, and the check of a configuration before anything is opened.

Guarantees: `check` does no I/O and names the field and what to write into it. Does not guarantee that a bucket of a
well-formed name exists.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import urlsplit

from yoban.errors import InvalidInput
from yoban.plugins import ObjectStore, ObjectStoreProvider, StoreConfig

from yoban_s3.declaration import ACCESS_KEY, CAPABILITIES, SECRET_KEY

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_HOST = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
LONGEST_HOST = 255


class S3Provider(ObjectStoreProvider):
    """Amazon S3 and its kin, over path-style addresses where an endpoint is given."""

    name = "s3"
    title = "Amazon S3 and compatible"
    capabilities = CAPABILITIES
    secret_keys: Mapping[str, str] = {
        ACCESS_KEY: "access key id",
        SECRET_KEY: "secret access key",
    }

    def check(self, config: StoreConfig) -> None:
        _check_bucket(config.bucket)
        _check_endpoint(config)
        _check_credentials(config.credentials)
        if config.prefix.startswith("/") or config.prefix.endswith("/") or "//" in config.prefix:
            raise InvalidInput(
                "the prefix begins or ends with a slash, or has two in a row",
                object=f"prefix {config.prefix!r}",
                fix="write it as `a/b`",
            )
        if config.ca_bundle and b"-----BEGIN CERTIFICATE-----" not in config.ca_bundle:
            raise InvalidInput("the CA bundle holds no PEM certificate", object="caBundle", fix="put PEM text into it")

    @asynccontextmanager
    async def open(self, config: StoreConfig) -> AsyncIterator[ObjectStore]:
        self.check(config)
        opened = await asyncio.to_thread(_load)
        async with opened(config) as store:
            yield store


def _load() -> Callable[[StoreConfig], AbstractAsyncContextManager[ObjectStore]]:
    """Import the SDK, which costs 30 MB and a quarter of a second: only who opens a store pays."""
    from yoban_s3.store import opened

    return opened


def _check_bucket(bucket: str) -> None:
    fix = "use 3 to 63 lower-case letters, digits, dots and hyphens"
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise InvalidInput("the bucket's name is not one that S3 allows", object=f"bucket {bucket!r}", fix=fix)
    try:
        ipaddress.ip_address(bucket)
    except ValueError:
        return
    raise InvalidInput("the bucket's name looks like an address", object=f"bucket {bucket!r}", fix=fix)


def _check_endpoint(config: StoreConfig) -> None:
    if not config.endpoint:
        if not config.region:
            raise InvalidInput(
                "neither endpoint nor region is given",
                object="region",
                fix="set the region of the bucket, or an endpoint",
            )
        return
    try:
        url = urlsplit(config.endpoint)
        is_bad = url.scheme not in ("http", "https") or not url.hostname or url.port == 0
    except ValueError:
        is_bad = True
    if is_bad:
        raise InvalidInput(
            "the endpoint is not a URL", object=f"endpoint {config.endpoint!r}", fix="write it as https://host:port"
        )
    if url.username or url.password or url.query or url.fragment or url.path not in ("", "/"):
        raise InvalidInput(
            "the endpoint has more in it than a host and a port",
            object=f"endpoint at {url.hostname}",
            fix="write it as https://host:port; credentials belong into the Secret, the bucket into its field",
        )
    if not _is_host(url.hostname or "") or any(letter.isspace() for letter in config.endpoint):
        raise InvalidInput(
            "the endpoint's host is not one that the S3 client takes",
            object=f"endpoint {config.endpoint!r}",
            fix="name it by labels of 1 to 63 letters, digits and inner hyphens with dots between them, or by its address",
        )


def _is_host(name: str) -> bool:
    """Whether botocore takes it. By a rule of our own: the operator checks, too, and must not load the SDK."""
    if ":" in name:
        try:
            return bool(ipaddress.IPv6Address(name))
        except ValueError:
            return False
    return len(name) <= LONGEST_HOST and _HOST.fullmatch(name.removesuffix(".")) is not None


def _check_credentials(credentials: Mapping[str, str]) -> None:
    if not credentials:
        return
    for name in (ACCESS_KEY, SECRET_KEY):
        if not credentials.get(name, "").strip():
            raise InvalidInput(
                f"the credentials Secret has no entry {name}", object=name, fix=f"add {name} to the Secret"
            )
