"""What every log line and span of one piece of work carries: set by whoever runs the work, read by formatters.

Guarantees: follows the asyncio task, so it needs no argument. Holds ids only, never a secret.
"""

from __future__ import annotations

from contextvars import ContextVar

reconcile_id: ContextVar[str] = ContextVar("yoban_reconcile_id", default="")
"""Id of the reconcile that runs in this task, "" outside of one."""

controller_name: ContextVar[str] = ContextVar("yoban_controller", default="")
"""Name of the controller whose reconcile runs in this task, "" outside of one."""

object_name: ContextVar[str] = ContextVar("yoban_object", default="")
"""`namespace/name` of what is reconciled in this task, "" outside of one."""
