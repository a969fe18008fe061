"""What all custom resources have: identity, metadata, conditions, and how the API server shows them.

Parsing is lenient towards other releases and strict towards what this one needs; what cannot be read becomes an
`InvalidInput` that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError

from yoban.errors import InvalidInput
from yoban.model.fields import Part, Time

GROUP = "yoban.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "yoban"

TRACEPARENT = "yoban.dev/traceparent"
"""Annotation of a Backup: W3C trace context of what asked for it."""
SKIP_CLEANUP = "yoban.dev/skip-cleanup"
"""Annotation: let the object go without cleaning up outside the cluster. Any value but "false" counts, "" too."""
RESTART = "yoban.dev/restart"
"""Annotation of a Database: each new value restarts its instances in order."""
SWITCHOVER = "yoban.dev/switchover"
"""Annotation of a Database: instance to become primary ("" for the best). Each turn of it is one request; `@word` behind the
name makes another value."""
POLICY_LABEL = "yoban.dev/policy"
"""Label of a Backup: the BackupPolicy that asked for it."""
FOUND_LABEL = "yoban.dev/found"
"""Label of a Backup that was made for data found in the repository."""
REVISION_ANNOTATION = "yoban.dev/revision"
"""Annotation of instances' objects: revision of the Pod template."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`. `wide`: only with `-o wide`."""

    name: str
    path: str
    type: Literal["string", "integer", "number", "boolean", "date"] = "string"
    wide: bool = False
    about: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """How a kind is called: CamelCase, plural, short; a sentence about it for `kubectl explain`."""

    kind: str
    plural: str
    short: str
    about: str


class Owner(Part):
    """An owner reference."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Meta(Part):
    """Metadata as far as we read it."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)
    owner_references: list[Owner] = Field(default_factory=list)


class Condition(Part):
    """One observation, as KEP-1623 has it."""

    type: str = Field(max_length=316, description="What is observed, a state such as Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(default="", min_length=0, max_length=1024, description="Why, one CamelCase word for programs.")
    message: str = Field(default="", max_length=32768, description="Why, and what to do next, for people.")
    last_transition_time: Time | None = Field(default=None, description="When the status last changed.")
    observed_generation: int | None = Field(
        default=None, ge=0, le=2**53, description="The metadata.generation that was looked at; an older one is stale."
    )


class Status(Part):
    """Base of all status: what was observed, never what is decided by."""

    observed_generation: int | None = Field(
        default=None, ge=0, le=2**53, description="The metadata.generation that this status tells about."
    )
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=32,
        description="Observations by type; Ready sums them up.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class Resource(Part):
    """A custom resource. Subclasses have `spec`, `status`, `names`, `columns`, and CEL rules on the whole object."""

    names: ClassVar[Names]
    columns: ClassVar[tuple[Column, ...]] = ()
    rules: ClassVar[tuple[dict[str, Any], ...]] = ()

    metadata: Meta = Field(default_factory=Meta)

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> Self:
        """Read an object of the API server.

        Raises:
            InvalidInput: it does not fit this release's model; names each field and what is wrong with it.
        """
        try:
            return cls.model_validate(obj)
        except ValidationError as error:
            found = [
                f"{'.'.join(str(step) for step in item['loc'])}: {item['msg']}"
                for item in error.errors(include_url=False, include_input=False, include_context=False)
            ]
            meta = obj.get("metadata") or {}
            raise InvalidInput(
                "the resource cannot be read",
                object=f"{cls.names.kind} {meta.get('namespace', '')}/{meta.get('name', '')}",
                cause="; ".join(found[:10]),
                fix="correct these fields, and check that the CRDs are those of this release",
            ) from None

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.metadata.namespace, self.metadata.name

    @property
    def deleting(self) -> bool:
        """Somebody deleted it; it waits for finalizers."""
        return self.metadata.deletion_timestamp is not None

    @property
    def skips_cleanup(self) -> bool:
        """Its owner gave up on cleaning up outside the cluster."""
        return self.metadata.annotations.get(SKIP_CLEANUP, "false").lower() != "false"

    def __str__(self) -> str:
        return f"{self.names.kind} {self.metadata.namespace}/{self.metadata.name}"
