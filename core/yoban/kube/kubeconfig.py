"""Reading a kubeconfig file.

Client certificates and tokens are read here, cheaply. Whatever needs more (exec plugins, auth providers) goes through
kubernetes_asyncio, which this module alone imports, and only then: it costs 37 MB.

Guarantees: the file named is read, and no other; relative paths in it are relative to it. Does not merge several files.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from pathlib import Path
from typing import Any

import yaml

from yoban.errors import InvalidInput
from yoban.kube.clock import Clock, SystemClock
from yoban.kube.config import ClusterConfig, Credentials, StaticToken, TokenFile

log = logging.getLogger(__name__)

_PLUGIN_DEADLINE = 30.0  # seconds an exec plugin or auth provider may take
_PLUGIN_TOKEN_AGE = 60.0  # seconds after which it is asked again; it keeps its own cache


async def read_kubeconfig(path: Path, *, context: str | None = None) -> ClusterConfig:
    """The cluster and user of `context` (default: the file's current one). Raises `InvalidInput`, naming what is wrong."""
    name = f"kubeconfig {path}"
    try:
        document = yaml.safe_load(await asyncio.to_thread(path.read_bytes))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput(
            "cannot be read", object=name, cause=str(error), fix="check the path and the file"
        ) from error
    if not isinstance(document, dict):
        raise InvalidInput("is no kubeconfig", object=name, fix="name a file that kubectl can use")
    context_name = context or document.get("current-context") or ""
    chosen = _entry(document, "contexts", "context", context_name, name)
    cluster = _entry(document, "clusters", "cluster", chosen.get("cluster", ""), name)
    user = _entry(document, "users", "user", chosen.get("user", ""), name)
    folder = path.parent
    ca_data = _data(cluster, "certificate-authority", folder, name)
    certificate = _data(user, "client-certificate", folder, name)
    private_key = _data(user, "client-key", folder, name)
    if bool(certificate) != bool(private_key):
        raise InvalidInput("names a client certificate without its key, or the reverse", object=name, fix="give both")
    return ClusterConfig(
        server=str(cluster.get("server", "")).rstrip("/"),
        credentials=_credentials(user, path, context_name),
        ca_data=ca_data.decode("ascii") if ca_data else None,
        client_cert=certificate + b"\n" + private_key if certificate and private_key else None,
        verify=not cluster.get("insecure-skip-tls-verify"),
        server_name=cluster.get("tls-server-name"),
        namespace=str(chosen.get("namespace") or "default"),
    )


def _entry(document: dict[str, Any], group: str, field: str, wanted: str, name: str) -> dict[str, Any]:
    for entry in document.get(group) or ():
        if entry.get("name") == wanted:
            found: dict[str, Any] = entry.get(field) or {}
            return found
    raise InvalidInput(f"has no {field} {wanted!r}", object=name, fix=f"choose one of its {group}")


def _data(entry: dict[str, Any], field: str, folder: Path, name: str) -> bytes | None:
    encoded = entry.get(f"{field}-data")
    try:
        if encoded:
            return base64.b64decode(encoded, validate=True)
        if entry.get(field):
            return Path(folder, str(entry[field])).read_bytes()
    except (OSError, binascii.Error) as error:
        raise InvalidInput(
            f"has an unreadable {field}", object=name, cause=str(error), fix="check that entry"
        ) from error
    return None


def _credentials(user: dict[str, Any], path: Path, context: str) -> Credentials:
    if user.get("tokenFile"):
        return TokenFile(path.parent / user["tokenFile"])
    if user.get("token"):
        return StaticToken(user["token"])
    if user.get("exec") or user.get("auth-provider"):
        return PluginToken(path, context)
    return StaticToken()


class PluginToken:
    """A token from an exec plugin or auth provider of a kubeconfig, asked again each minute and after a refusal."""

    def __init__(self, path: Path, context: str, clock: Clock | None = None) -> None:
        self._path = path
        self._context = context
        self._clock = clock or SystemClock()
        self._token: str | None = None
        self._asked_at = 0.0
        self._lock = asyncio.Lock()

    async def token(self, *, fresh: bool = False) -> str | None:
        """The token; the last one, unless the server refused it, while the plugin gives none within 30 s.

        Raises `InvalidInput` when there is no such token.
        """
        async with self._lock:
            now = self._clock.monotonic()
            if self._token is None or fresh or now - self._asked_at >= _PLUGIN_TOKEN_AGE:
                try:
                    self._token = await self._ask()
                except InvalidInput as error:
                    if self._token is None or fresh:
                        raise
                    log.warning("going on with the last token: %s", error)
                self._asked_at = now
            return self._token

    async def _ask(self) -> str:
        from kubernetes_asyncio.client import Configuration
        from kubernetes_asyncio.config import load_kube_config

        name = f"kubeconfig {self._path}"
        configuration = Configuration()
        try:
            async with asyncio.timeout(_PLUGIN_DEADLINE):
                await load_kube_config(
                    config_file=str(self._path), context=self._context or None, client_configuration=configuration
                )
        except Exception as error:
            raise InvalidInput(
                "its user's plugin gave no credentials", object=name, cause=str(error), fix="try it with kubectl"
            ) from error
        bearer = str(configuration.api_key.get("BearerToken", ""))
        if not bearer:
            raise InvalidInput("its user's plugin gave no token", object=name, fix="use a plugin that returns a token")
        return bearer.removeprefix("Bearer ")
