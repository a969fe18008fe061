"""The operator's settings: environment variables `YOBAN_…`, then a YAML file, then defaults.

Guarantees: a wrong value stops the start and names its field. Lists are comma-separated in the environment. No setting
holds a secret. Adding a field needs nothing else: the chart and the reference are made from this model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from yoban.kube.election import LeaseTimings

SETTINGS_FILE = Path("/etc/yoban/settings.yaml")

Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Everything that can be set about an operator process."""

    model_config = SettingsConfigDict(env_prefix="YOBAN_", extra="ignore", frozen=True)

    plugins: Names = Field(default=(), description="Plugins to load, by name; empty loads all that are installed.")
    plugins_disabled: Names = Field(default=(), description="Plugins not to load, by name.")
    namespaces: Names = Field(default=(), description="Namespaces to watch; empty watches the whole cluster.")
    namespace: str = Field(default="default", description="Namespace of the operator itself.")
    pod: str = Field(default="", description="Name of the operator's own Pod; identifies it in events.")
    image: str = Field(default="", description="The operator's own image, from which agents are injected.")
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = Field(
        default="", description="How that image is pulled for agents; empty leaves it to Kubernetes."
    )
    kubeconfig: Path | None = Field(
        default=None, description="Kubeconfig file to use; without it the Pod's service account is used."
    )
    context: str | None = Field(default=None, description="Context of the kubeconfig; default: its current one.")
    workers: int = Field(
        default=8, ge=1, le=1000, description="Objects of a kind that are reconciled at the same time."
    )
    reconcile_deadline: float = Field(default=120.0, gt=0, description="Seconds one reconcile may take.")
    leader_election: bool = Field(default=True, description="Whether only one of several operators works.")
    lease_name: str = Field(default="yoban-operator", description="Name of the Lease of leader election.")
    lease_namespace: str | None = Field(default=None, description="Namespace of the Lease; default: the operator's.")
    lease_duration: float = Field(default=15.0, gt=0, description="Seconds a Lease is good for after a renewal.")
    lease_renew_deadline: float = Field(
        default=10.0, gt=0, description="Seconds a leader tries to renew, then it ends."
    )
    lease_retry: float = Field(default=2.0, gt=0, description="Seconds between tries to take or renew the Lease.")
    stop_timeout: float = Field(default=30.0, ge=0, description="Seconds for a stop in order.")
    sync_timeout: float = Field(default=120.0, gt=0, description="Seconds for the caches to fill at the start.")
    max_silence: float = Field(
        default=300.0, gt=0, description="Seconds without word from the API server after which readiness fails."
    )
    bind: str = Field(default="", description="Address that health and metrics listen on; empty for all.")
    health_port: int = Field(default=8081, ge=0, le=65535, description="Port of liveness and readiness.")
    metrics_port: int = Field(default=8080, ge=0, le=65535, description="Port of the Prometheus metrics.")
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="JSON or readable lines; auto chooses readable on a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    detect_mutation: bool = Field(default=False, description="Check that nobody changes cached objects; costs CPU.")

    @field_validator("plugins", "plugins_disabled", "namespaces", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("kubeconfig", "context", "lease_namespace", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @model_validator(mode="after")
    def _timings_fit(self) -> Settings:
        try:
            self.timings()
        except Exception as error:
            raise ValueError(str(error)) from error
        return self

    def timings(self) -> LeaseTimings:
        """The times of leader election; `InvalidInput` when they do not fit together."""
        margin = min(2.0, (self.lease_duration - self.lease_renew_deadline) / 2)
        return LeaseTimings(
            duration=self.lease_duration,
            renew_deadline=self.lease_renew_deadline,
            retry=self.lease_retry,
            margin=max(0.0, margin),
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the file that `YOBAN_SETTINGS` names (default `/etc/yoban/settings.yaml`)."""
        from pydantic_settings import YamlConfigSettingsSource

        path = Path(os.environ.get("YOBAN_SETTINGS") or SETTINGS_FILE)
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        if path.exists():
            sources.append(YamlConfigSettingsSource(settings_cls, yaml_file=path))
        return tuple(sources)
