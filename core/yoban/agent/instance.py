"""The parts of one agent, put together; what each activity is handed."""

from __future__ import annotations

from dataclasses import dataclass, field

from yoban.agent.board import Board
from yoban.agent.context import build_context
from yoban.agent.document import Configuration, Configurations
from yoban.agent.environment import Environment
from yoban.agent.notice import Notice
from yoban.agent.storage import Storage
from yoban.agent.supervision import Supervision
from yoban.errors import NotReady
from yoban.kube.clock import Clock
from yoban.model.instance import InstanceDocument
from yoban.plugins import Engine, InstanceContext, Processes


@dataclass(slots=True)
class Instance:
    """One instance. `wake` makes its life look around at once."""

    environment: Environment
    engine: Engine
    configurations: Configurations
    supervision: Supervision
    storage: Storage
    board: Board
    processes: Processes
    clock: Clock
    wake: Notice = field(default_factory=Notice)
    _built: tuple[Configuration, InstanceContext] | None = None

    @property
    def configuration(self) -> Configuration:
        """What is asked of us now. Raises NotReady before the first document."""
        current = self.configurations.current
        if current is None:
            raise NotReady("there is no document yet", object=self.environment.instance)
        return current

    @property
    def document(self) -> InstanceDocument:
        """The document in force. Raises NotReady."""
        return self.configuration.document

    @property
    def context(self) -> InstanceContext:
        """The context of the configuration in force; a new object only when that changed. Raises NotReady."""
        configuration = self.configuration
        if self._built is None or self._built[0] is not configuration:
            context = build_context(self.environment, configuration, self.engine, self.processes)
            self._built = (configuration, context)
        return self._built[1]
