"""Third decision: what is done to running instances: restarts, replacement of Pods, switchover. One thing at a time.

Guarantees: pure. Replicas before the primary, except for settings that must be lowered on the primary first; the
primary's Pod is replaced after a switchover when there is somebody to take over; each request is carried out once (a
restart is known by the token an agent reports, a switchover by what the Lease says of it), and an operator that forgot
everything decides the same again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from yoban.domain.candidates import Candidate, choose, target_of
from yoban.domain.rollout import Action, Next, Running, next_step
from yoban.errors import InvalidInput, YobanError
from yoban.model.instance import SwitchoverDocument
from yoban.plugins import Engine
from yoban.reconcilers.candidates import lag
from yoban.reconcilers.database.builders.lease import Asked
from yoban.reconcilers.database.observed import Observed

_FOR_SETTINGS = " settings-of-generation-"
"""Between a restart request and what was added to it for settings that wait for a restart."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked for.

    Attributes:
        numbers: the members.
        generation: of the Database.
        restart: value of the restart annotation, "" for none.
        asked: the switchover annotation.
        outdated: members whose Pod differs from its template.
        template: a word that changes with the templates.
        leaving: the primary, when its volume is being deleted.
        primary_first: restarts begin with the primary.
        paused: nothing is begun.
    """

    numbers: tuple[int, ...]
    generation: int
    restart: str = ""
    asked: Asked = field(default_factory=Asked)
    outdated: Collection[int] = ()
    template: str = ""
    leaving: int | None = None
    primary_first: bool = False
    paused: bool = False


@dataclass(frozen=True, slots=True)
class SwitchoverOutcome:
    """How a request fares: `waiting`, `running`, `done` or `failed`."""

    id: str
    state: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Operations:
    """What is to be done now.

    Attributes:
        restarts: restart token by instance name, for the document.
        switchover: for the document.
        replace: number of the instance whose Pod is to be deleted now.
        outcome: of the owner's switchover request.
        restarted: the restart request, once every member has carried it out; "" before.
        activity: what is under way, in words, "" for nothing.
    """

    restarts: Mapping[str, str] = field(default_factory=dict)
    switchover: SwitchoverDocument | None = None
    replace: int | None = None
    outcome: SwitchoverOutcome | None = None
    restarted: str = ""
    activity: str = ""


def operate(observed: Observed, wishes: Wishes) -> Operations:
    """Decide what is done to running instances."""
    names = observed.names
    tokens = {number: _token(observed, wishes, number) for number in wishes.numbers}
    due = {number: wanted for number in wishes.numbers if (wanted := _due(observed, wishes, number, tokens[number]))}
    candidates = {number: _candidate(observed, number, tokens[number]) for number in wishes.numbers}
    switchover, outcome = _requested(observed, wishes, list(candidates.values()))
    running = [
        Running(
            candidates[number],
            outdated=number in wishes.outdated,
            restart=number in due,
            gone=observed.gone(number),
        )
        for number in wishes.numbers
    ]
    step = next_step(running, paused=wishes.paused)
    replace: int | None = None
    handing_over = outcome is not None and outcome.state == "running"
    if handing_over and any(candidate.name == step.instance and candidate.ready for candidate in candidates.values()):
        # Whoever hands over or takes over must not be taken away meanwhile; what does not run may be.
        step = Next(Action.WAIT, step.instance, "a switchover is under way")
    activity = f"switching over: {outcome.message}" if outcome is not None and outcome.state == "running" else ""
    subject = names.number(step.instance)
    if step.action is Action.WAIT:
        activity = activity or f"updating: {step.why}"
    elif step.action is Action.RESTART and subject is not None:
        primary = observed.primary
        if wishes.primary_first and primary in due:
            subject = primary
        tokens[subject] = due[subject]
        activity = activity or f"restarting {names.instance(subject)}"
    elif step.action is Action.REPLACE:
        replace = subject
        activity = activity or f"replacing the Pod of {step.instance}"
    elif step.action is Action.SWITCHOVER:
        activity = activity or f"switching over to {step.instance} before {step.why}"
    if outcome is None or outcome.state in ("done", "failed"):
        if step.action is Action.SWITCHOVER:
            relief = SwitchoverDocument(id=f"update-{wishes.template}-{step.instance}", target=step.instance)
            if _failed(observed, relief.id):
                replace = observed.primary  # it did not want to; a Pod that is replaced in place serves as well
            else:
                switchover = relief
        elif wishes.leaving is not None and not wishes.paused:
            switchover = _relieve(observed, wishes, list(candidates.values())) or switchover
    return Operations(
        restarts={names.instance(number): token for number, token in tokens.items() if token},
        switchover=switchover,
        replace=replace,
        outcome=outcome,
        restarted="" if any(_asked(wishes, number, tokens) for number in wishes.numbers) else wishes.restart,
        activity=activity,
    )


def primary_first(engine: Engine, version: str, before: Mapping[str, str], after: Mapping[str, str]) -> bool | None:
    """Whether a change of settings must reach the primary before replicas; None when it is no matter of order.

    A setting that replicas must not have lower than the primary is raised on replicas first and lowered on the primary first.
    """
    order: bool | None = None
    for name in sorted({*before, *after}):
        if before.get(name) == after.get(name) or not engine.setting_rule(name, version).replicas_first:
            continue
        if _lowered(before.get(name), after.get(name)):
            return True
        order = False
    return order


def _lowered(before: str | None, after: str | None) -> bool:
    try:
        return before is not None and (after is None or float(after) < float(before))
    except ValueError:
        return False


def _token(observed: Observed, wishes: Wishes, number: int) -> str:
    """The restart token in force for an instance."""
    name = observed.names.instance(number)
    document, agent = observed.document, observed.agent(number)
    if document is not None:
        if any(member.name == name for member in document.members):
            return document.restart_of(name)
        return wishes.restart
    # The document is new, or was deleted: what an agent carried out already must not be carried out again.
    return agent.restart if agent is not None and agent.restart else wishes.restart


def _due(observed: Observed, wishes: Wishes, number: int, token: str) -> str:
    """The token that is to be put into force for an instance, "" when none is."""
    if _asked(wishes, number, {number: token}):
        return wishes.restart
    agent = observed.agent(number)
    if agent is None or agent.server is None or agent.generation < wishes.generation:
        return ""
    wanted = f"{token.partition(_FOR_SETTINGS)[0]}{_FOR_SETTINGS}{wishes.generation}"
    return wanted if agent.server.pending_restart and token != wanted else ""


def _asked(wishes: Wishes, number: int, tokens: Mapping[int, str]) -> bool:
    """Whether the owner's restart request has not been put into force for a member yet."""
    asked, token = wishes.restart, tokens[number]
    return bool(asked) and token != asked and not token.startswith(asked + _FOR_SETTINGS)


def _candidate(observed: Observed, number: int, token: str) -> Candidate:
    name = observed.names.instance(number)
    agent = observed.agent(number)
    primary = observed.agent(observed.primary) if observed.primary is not None else None
    link = None
    if primary is not None and primary.server is not None:
        link = next((entry for entry in primary.server.replicas if entry.name == name), None)
    return Candidate(
        name,
        number,
        primary=number == observed.primary,
        ready=observed.ready(number) and (agent is None or agent.restart == token),
        streaming=link is not None and link.streaming,
        synchronous=link is not None and link.synchronous,
        lag_seconds=lag(agent, link),
    )


def _requested(
    observed: Observed, wishes: Wishes, candidates: list[Candidate]
) -> tuple[SwitchoverDocument | None, SwitchoverOutcome | None]:
    """The owner's request: what stands in the document, and how it fares."""
    document = observed.document
    previous = document.switchover if document is not None else None
    if wishes.asked.value is None:
        return previous, None
    id_ = wishes.asked.id
    if wishes.asked.begun:
        return previous, _outcome(observed, id_)
    if wishes.asked.refused:
        return previous, SwitchoverOutcome(id_, "failed", wishes.asked.refused)
    if previous is not None and previous.id == id_:
        if any(item.name == previous.target and not item.primary for item in candidates):
            return previous, SwitchoverOutcome(id_, "running", f"to {previous.target}")
        previous = None
    if wishes.paused:
        return previous, SwitchoverOutcome(id_, "waiting", "the Database is paused")
    try:
        target = choose(candidates, target_of(wishes.asked.value)).name
    except InvalidInput as error:
        return previous, SwitchoverOutcome(id_, "failed", str(error))
    except YobanError as error:
        return previous, SwitchoverOutcome(id_, "waiting", str(error))
    return SwitchoverDocument(id=id_, target=target), SwitchoverOutcome(id_, "running", f"to {target}")


def _outcome(observed: Observed, id_: str) -> SwitchoverOutcome:
    found = [agent.switchover for agent in observed.agents.values() if agent.switchover.id == id_]
    for state in ("failed", "done", "running"):
        word = next((entry for entry in found if entry.state == state), None)
        if word is not None and (state != "done" or observed.served):
            return SwitchoverOutcome(id_, state, word.message)
    # Whoever did it was replaced since; the Lease says that it was begun, and somebody reigns. Done is said when clients
    # get there too.
    if observed.holder and not observed.served:
        return SwitchoverOutcome(id_, "running", f"{observed.holder} reigns; its Pod has not the primary's label yet")
    return SwitchoverOutcome(id_, "done" if observed.holder else "running", f"{observed.holder} reigns".strip())


def _failed(observed: Observed, id_: str) -> bool:
    return observed.switchover_begun == id_ and any(
        agent.switchover.id == id_ and agent.switchover.state == "failed" for agent in observed.agents.values()
    )


def _relieve(observed: Observed, wishes: Wishes, candidates: list[Candidate]) -> SwitchoverDocument | None:
    """A switchover away from a primary whose volume is being deleted, when somebody can take over."""
    if observed.gone(wishes.leaving or 0):
        return None
    try:
        target = choose(candidates).name
    except YobanError:
        return None
    return SwitchoverDocument(id=f"volume-{wishes.leaving}-{target}", target=target)
