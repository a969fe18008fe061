"""ObjectStore: a bucket, or a prefix of one, where backups and logs go."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from yoban.model.fields import DeletionPolicy, Label, ObjectName, Part, rule, unchanging, validations
from yoban.model.resource import Column, Names, Resource, Status

FINALIZER = "yoban.dev/objectstore"


class Credentials(Part):
    """Where the store's credentials are."""

    secret: ObjectName = Field(
        description="Name of a Secret in the same namespace; the provider says which entries it must have. For s3 "
        "accessKeyId, secretAccessKey and, if temporary, sessionToken."
    )


class ObjectStoreSpec(Part):
    """A bucket or prefix, and how to reach it."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            unchanging("provider", "provider"),
            unchanging("bucket", "bucket"),
            unchanging("prefix", "prefix"),
            rule(
                "self.deletionPolicy != 'Delete' || self.create",
                "deletionPolicy Delete is only for a bucket that the operator made: set create: true",
            ),
        )
    )

    provider: Label = Field(description="Kind of store, supplied by a plugin; `yoban plugins` lists them.")
    bucket: str = Field(
        min_length=1,
        max_length=255,
        pattern=r"^[A-Za-z0-9/][-A-Za-z0-9._/]*$",
        description="Name of the bucket, or whatever the provider calls its largest unit. The provider may allow less.",
        json_schema_extra=validations(
            rule("!self.contains('..') && !self.contains('//')", "bucket must not contain '..' or '//'")
        ),
    )
    prefix: str = Field(
        default="",
        max_length=255,
        pattern=r"^([A-Za-z0-9._=-]+(/[A-Za-z0-9._=-]+)*)?$",
        description="Prefix of all keys, without a slash at either end. Empty: the whole bucket.",
        json_schema_extra=validations(rule("!self.contains('..')", "prefix must not contain '..'")),
    )
    endpoint: str = Field(
        default="",
        max_length=512,
        pattern=r"^(https?://[^\s/?#]+(/[^\s?#]*)?)?$",
        description="URL of the service. Empty: the provider's own.",
    )
    region: str = Field(
        default="",
        max_length=64,
        pattern=r"^[A-Za-z0-9-]*$",
        description="Region. Empty: the provider's default. Required by s3 without endpoint.",
    )
    ca_bundle: str = Field(
        default="",
        max_length=131072,
        description="PEM certificates to trust for the endpoint beside the system's.",
        json_schema_extra=validations(
            rule("self == '' || self.contains('-----BEGIN CERTIFICATE-----')", "caBundle must hold PEM certificates")
        ),
    )
    credentials: Credentials | None = Field(
        default=None,
        description="Credentials. Absent: the identity of the ServiceAccounts of the operator (chart: "
        "serviceAccount.annotations) and of each Database (it bears the Database's name).",
    )
    create: bool = Field(default=False, description="Make the bucket when it is not there, and mark it as ours.")
    deletion_policy: DeletionPolicy = Field(
        default="Retain",
        description="Delete: when this object is deleted, empty and remove a bucket that the operator made.",
    )


class CleanUp(Part):
    """How far the removal of the bucket's content is."""

    removed: int = Field(default=0, ge=0, le=2**53, description="Objects, versions and open uploads removed so far.")
    state: str = Field(default="", max_length=64, description="Waiting, Emptying, Removing or Done.")


class ObjectStoreStatus(Status):
    """What was found of the store."""

    users: int | None = Field(default=None, ge=0, le=2**31, description="BackupPolicies and Databases that use it.")
    created: bool | None = Field(default=None, description="The bucket bears this object's creation marker.")
    capabilities: list[Label] = Field(
        default_factory=list, max_length=16, description="What the provider can do with this store."
    )
    cleanup: CleanUp | None = Field(default=None, description="Removal of the bucket, while it is under way.")


class ObjectStore(Resource):
    """A bucket or a prefix where backups and logs go."""

    names: ClassVar[Names] = Names("ObjectStore", "objectstores", "yos", "A bucket, or a prefix of one, for backups.")
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Provider", ".spec.provider"),
        Column("Bucket", ".spec.bucket"),
        Column("Prefix", ".spec.prefix", wide=True),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        Column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        Column("Users", ".status.users", "integer"),
        Column("Endpoint", ".spec.endpoint", wide=True),
        Column("Message", '.status.conditions[?(@.type=="Ready")].message', wide=True),
        Column("Age", ".metadata.creationTimestamp", "date"),
    )

    spec: ObjectStoreSpec = Field(description="What is wanted.")
    status: ObjectStoreStatus = Field(default_factory=lambda: ObjectStoreStatus(), description="What was found.")
