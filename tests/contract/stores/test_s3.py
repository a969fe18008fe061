"""The S3 plugin against the contract, on a real S3 server over http and https."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from yoban.plugins import StoreConfig
from yoban.testing.objectstore import ObjectStoreContract, Outage
from yoban_s3.provider import S3Provider

if TYPE_CHECKING:
    from deploy.lab.store import LocalStore


def s3_config(server: LocalStore, bucket: str) -> StoreConfig:
    return StoreConfig(
        bucket=bucket,
        endpoint=server.endpoint,
        region=server.region,
        ca_bundle=server.ca_file.read_bytes() if server.ca_file else b"",
        credentials={"accessKeyId": server.access_key, "secretAccessKey": server.secret_key},
    )


@pytest.fixture(scope="module")
def tls_store(local_store: LocalStore) -> Iterator[LocalStore]:
    with type(local_store)(tls=True) as server:
        yield server


@pytest.mark.server
class TestS3Store(ObjectStoreContract):
    @pytest.fixture
    def server(self, local_store: LocalStore) -> LocalStore:
        return local_store

    @pytest.fixture
    def provider(self) -> S3Provider:
        return S3Provider()

    @pytest.fixture
    async def config(self, server: LocalStore, provider: S3Provider) -> StoreConfig:
        config = s3_config(server, f"contract-{secrets.token_hex(4)}")
        async with provider.open(config) as store:
            assert store.bucket is not None
            await store.bucket.create()
        return config

    @pytest.fixture
    def outage(self, server: LocalStore) -> Iterator[Outage]:
        yield Outage(server.stop, server.start)
        server.start()


@pytest.mark.server
class TestS3StoreOverTls(TestS3Store):
    @pytest.fixture
    def server(self, tls_store: LocalStore) -> LocalStore:
        return tls_store
