"""Types that the resources share: bounded names, quantities, maps; and CEL rules as data.

Every type carries its bounds, so that the API server can estimate the cost of rules and rejects what is out of all
proportion. Nothing here knows a kind.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

DeletionPolicy = Literal["Retain", "Delete"]


def rule(expression: str, message: str, **more: Any) -> dict[str, Any]:
    """Return a CEL rule for `x-kubernetes-validations`. `more`: `fieldPath`, `reason`, `messageExpression`."""
    return {"rule": expression, "message": message, **more}


def unchanging(field: str, what: str) -> dict[str, Any]:
    """Return a rule of an object that holds `field`: once made, it stays as it is, absent or present."""
    same = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    return rule(same, f"{what} cannot be changed")


def validations(*rules: dict[str, Any]) -> dict[str, Any]:
    """Return `json_schema_extra` that attaches CEL rules."""
    return {"x-kubernetes-validations": list(rules)}


class Part(BaseModel):
    """Base of everything inside a resource: camelCase on the wire, immutable, unknown fields ignored.

    The API server prunes what the schema does not know; what a newer release wrote is no error for this one.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        defer_build=True,  # an operator need not keep validators of kinds that nobody uses
    )

    def wire(self) -> dict[str, Any]:
        """Return it as it stands in a resource: camelCase, JSON types, without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


Label = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS label: name of a resource, plugin or engine."""

DatabaseName = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
"""Name of a Database: as a label, but it begins with a letter and is short, because names are made of it."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""Name of an object in the same namespace."""

Text = Annotated[str, Field(max_length=1024)]
Word = Annotated[str, Field(max_length=256)]
Value = Annotated[str, Field(max_length=4096)]

POSITION_LENGTH = 65536
Position = Annotated[str, Field(max_length=POSITION_LENGTH)]
"""A place in a log, for people. It may be a set that grows with every server that ever wrote."""


def cut(text: str, length: int) -> str:
    """Return at most `length` characters of a text; one that is cut ends in "…", so that nobody takes it for whole."""
    return text if len(text) <= length else text[: length - 1] + "…"


Size = Annotated[str, Field(min_length=1, max_length=32)]
"""A quantity of bytes; the API server checks it with `isQuantity`."""

_AMOUNT = rule(
    "isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('0')) >= 0",
    "an amount is written like 500m or 2Gi, and none is negative",
)
Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 32, **validations(_AMOUNT)}),
]
"""A quantity of a resource; a bare number may stand for it, as in Pods."""

Free = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
"""An object whose fields somebody else checks (the engine's plugin, the API server when the Pod is made)."""

StringMap = Annotated[dict[Annotated[str, Field(max_length=317)], Value], Field(max_length=64)]
"""Labels, annotations, selectors."""


def _utc(value: datetime) -> datetime:
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


def _stamp(value: datetime) -> str:
    return value.isoformat(timespec="microseconds" if value.microsecond else "seconds").replace("+00:00", "Z")


Time = Annotated[
    datetime,
    AfterValidator(_utc),
    PlainSerializer(_stamp, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": 64}),
]
"""A moment, UTC."""
