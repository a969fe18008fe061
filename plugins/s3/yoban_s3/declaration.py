"""What the provider declares: what stores of it can do, and the entries of their Secret."""

from __future__ import annotations

from yoban.plugins import StoreCapability

ACCESS_KEY = "accessKeyId"
SECRET_KEY = "secretAccessKey"  # noqa: S105 - the name of an entry, not its content
SESSION_TOKEN = "sessionToken"  # noqa: S105

CAPABILITIES = frozenset({StoreCapability.CONDITIONAL_PUT, StoreCapability.MULTIPART, StoreCapability.BUCKET_ADMIN})
