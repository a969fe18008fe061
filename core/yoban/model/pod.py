"""Where instances run and what their Pods bear: the fields of a Pod that an owner may choose."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from yoban.model.fields import Free, ObjectName, Part, Quantity, StringMap, Word, rule, validations

ResourceMap = Annotated[dict[Annotated[str, Field(max_length=253)], Quantity], Field(max_length=16)]


class Resources(Part):
    """Resources of the engine's container."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            rule(
                "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || "
                "!isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name])) || "
                "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
                "no request may be greater than the limit of the same name",
            )
        )
    )

    requests: ResourceMap = Field(default_factory=dict, description="Resources reserved, such as cpu and memory.")
    limits: ResourceMap = Field(
        default_factory=dict, description="Resources at most; defaults depend on memory and cpu."
    )


class Toleration(Part):
    """A taint that is tolerated."""

    key: Word | None = Field(default=None, description="Key of the taint. Absent: every key.")
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="How value is compared.")
    value: Word | None = Field(default=None, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint. Absent: every effect."
    )
    toleration_seconds: int | None = Field(default=None, ge=0, le=2**31, description="How long NoExecute is tolerated.")


class Spread(Part):
    """How instances are spread over a topology."""

    max_skew: int = Field(default=1, ge=1, le=100, description="How uneven it may be.")
    topology_key: Word = Field(description="Label of nodes, such as topology.kubernetes.io/zone.")
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        default="DoNotSchedule", description="What happens when it cannot be kept."
    )


class Pull(Part):
    """A Secret for pulling images."""

    name: ObjectName = Field(description="Name of the Secret in the same namespace.")


class PodOptions(Part):
    """Placement, labels, pull secrets, priority: one block."""

    node_selector: StringMap = Field(default_factory=dict, description="Labels that a node must have.")
    affinity: Free | None = Field(
        default=None, description="Affinity as in a Pod. Absent: instances prefer different nodes."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(
        default_factory=list, description="Taints that are tolerated."
    )
    topology_spread_constraints: Annotated[list[Spread], Field(max_length=8)] = Field(
        default_factory=list, description="How instances are spread."
    )
    labels: StringMap = Field(default_factory=dict, description="Further labels of Pods; ours win.")
    annotations: StringMap = Field(default_factory=dict, description="Further annotations of Pods; ours win.")
    image_pull_secrets: Annotated[list[Pull], Field(max_length=16)] = Field(
        default_factory=list, description="Secrets for pulling images."
    )
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of Pods.")
