"""kubectl, as the demo and the end-to-end tests use it: what a person would type, with typed results.

Every call has a deadline. Waiting follows a watch; nothing here polls.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.lab.kubectl import program

Object = dict[str, Any]


class KubectlError(RuntimeError):
    """kubectl ended with an error; its own words are the message."""


class WaitTimeout(RuntimeError):
    """The state waited for did not come in time; the message has the last object seen."""


class Kubectl:
    """kubectl against one cluster and one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str = "default") -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace

    def within(self, namespace: str) -> Kubectl:
        """Return the same cluster with another namespace."""
        return Kubectl(self.kubeconfig, namespace)

    def _argv(self, arguments: Sequence[str]) -> list[str]:
        return [str(program()), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *arguments]

    def run(self, *arguments: str, stdin: str | bytes | None = None, deadline: float = 60.0, check: bool = True) -> str:
        """Run kubectl and return what it prints.

        Raises:
            KubectlError: it failed (and `check`), or did not end within `deadline` seconds.
        """
        data = stdin.encode() if isinstance(stdin, str) else stdin
        try:
            done = subprocess.run(
                self._argv(arguments),
                input=data,
                capture_output=True,
                timeout=deadline,
                check=False,
                env=_environment(),
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlError(f"kubectl {' '.join(arguments[:4])}: no end within {deadline:.0f} s") from error
        if check and done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments[:4])}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode(errors="replace")

    def apply(self, *objects: Object) -> None:
        """Apply objects, as `kubectl apply -f -` does."""
        self.run("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object, None when there is none."""
        text = self.run("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, selector: str = "") -> list[Object]:
        """Return the objects of a kind, by label selector."""
        text = self.run("get", kind, "-o", "json", *(["-l", selector] if selector else []))
        items: list[Object] = json.loads(text)["items"]
        return items

    def delete(self, kind: str, name: str, *, wait: bool = True, deadline: float = 180.0) -> None:
        """Delete an object (one that is gone is fine), and wait until its finalizers are done."""
        self.run(
            "delete", kind, name, "--ignore-not-found", f"--wait={str(wait).lower()}", f"--timeout={deadline:.0f}s",
            deadline=deadline + 10,
        )  # fmt: skip

    def watch(self, kind: str, name: str, *, deadline: float) -> Iterator[Object]:
        """Yield an object each time that it changes, from its present state on, for `deadline` seconds at most."""
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            yield from self._watch_once(kind, name, end)

    def _watch_once(self, kind: str, name: str, end: float) -> Iterator[Object]:
        # By a selector, not by its name: for a single object kubectl gets it, then watches from "now" and drops the first
        # event as the one that it has shown, and a change in between is never seen. A list is watched from its version.
        argv = self._argv(
            ["get", kind, f"--field-selector=metadata.name={name}", "--watch", "-o", "json", "--request-timeout=0"]
        )
        decoder = json.JSONDecoder()
        buffer = ""
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()) as process:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            selector = selectors.DefaultSelector()
            selector.register(process.stdout, selectors.EVENT_READ)
            try:
                while (left := end - time.monotonic()) > 0:
                    if not selector.select(timeout=left):
                        return
                    chunk = process.stdout.read()
                    if chunk == b"":
                        # The kind is not known yet, or the server ended the watch: kubectl said so and left.
                        selector.select(timeout=0)
                        time.sleep(min(0.5, max(0.0, end - time.monotonic())))
                        return
                    buffer += (chunk or b"").decode(errors="replace")
                    while buffer.strip():
                        try:
                            value, used = decoder.raw_decode(buffer.lstrip())
                        except json.JSONDecodeError:
                            break
                        buffer = buffer.lstrip()[used:]
                        yield value
            finally:
                selector.close()
                process.kill()

    def wait(
        self,
        kind: str,
        name: str,
        until: Callable[[Object], bool],
        *,
        deadline: float,
        seen: Callable[[Object], None] | None = None,
    ) -> Object:
        """Follow an object until `until` holds, and return it; `seen` is called with each state on the way.

        Raises:
            WaitTimeout: it did not come true within `deadline` seconds.
        """
        last: Object = {}
        for value in self.watch(kind, name, deadline=deadline):
            last = value
            if seen is not None:
                seen(value)
            if until(value):
                return value
        status = json.dumps(last.get("status", {}))[:3000]
        raise WaitTimeout(f"{kind}/{name} did not get there within {deadline:.0f} s; its status: {status}")

    def execute(
        self, pod: str, *argv: str, container: str = "", stdin: str | bytes | None = None, deadline: float = 120.0
    ) -> str:
        """Run a program in a Pod's container and return what it prints."""
        where = ["-c", container] if container else []
        return self.run("exec", "-i", pod, *where, "--", *argv, stdin=stdin, deadline=deadline)


def condition(value: Object, kind: str) -> Mapping[str, Any]:
    """Return a condition of an object by type; an empty mapping when it has none."""
    for entry in value.get("status", {}).get("conditions", []):
        if entry.get("type") == kind:
            return dict(entry)
    return {}


def is_ready(value: Object) -> bool:
    """Tell whether an object is Ready for its newest generation."""
    ready = condition(value, "Ready")
    return ready.get("status") == "True" and ready.get("observedGeneration") == value["metadata"].get("generation")


def _environment() -> dict[str, str]:
    # KUBECONFIG must not lead anywhere by accident: the file is always named on the command line.
    return {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
