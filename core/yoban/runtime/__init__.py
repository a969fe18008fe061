"""What a controller needs around its reconcile: manager, controller loop, sources, health server, settings.

A whole operator::

    from yoban.kube.client import Client
    from yoban.kube.config import load_config
    from yoban.runtime import Controller, Manager, ObjectKey, Result

See docs/runtime.md for one in 40 lines. Settings are imported from `yoban.runtime.settings`, which costs pydantic.
"""

from yoban.errors import Retryable, Terminal
from yoban.kube.objects import ObjectKey
from yoban.kube.workqueue import INITIAL, NORMAL, URGENT
from yoban.runtime.controller import Controller
from yoban.runtime.health import HealthServer
from yoban.runtime.manager import Function, Group, Manager, Runnable
from yoban.runtime.result import Result
from yoban.runtime.sources import by_label, intent_changed, itself, owner_of, users_of

__all__ = [
    "INITIAL",
    "NORMAL",
    "URGENT",
    "Controller",
    "Function",
    "Group",
    "HealthServer",
    "Manager",
    "ObjectKey",
    "Result",
    "Retryable",
    "Runnable",
    "Terminal",
    "by_label",
    "intent_changed",
    "itself",
    "owner_of",
    "users_of",
]
