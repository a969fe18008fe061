"""The reasons and events that the source gives, with what each says: for docs/reference/conditions.md.

A reason is a CamelCase word that stands in the source where one belongs: as an argument or attribute called `reason` or
`problem`, by name, by position or by a choice between several, or in a table of them. Guarantees that none is without a
sentence: the one beside it in the source, else the one written here. Does not find a word that is put together at run time.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

Sources = Sequence[tuple[PurePath, ast.Module]]
"""Modules with their paths from the repository's root."""
_WORDS = frozenset(("reason", "problem"))
_TELL = ("tell", "_event", "Tidings")
"""What records an event: by its second argument, the last by its first."""
_TABLES = ("core/yoban/agent", "core/yoban/domain", "core/yoban/reconcilers")
"""Where a table whose words are all CamelCase is one of reasons; elsewhere it is of somebody else's codes."""

SAYS = {
    "AgentError": "an agent answered with an error of its own",
    "AgentRefused": "an agent refused what it was asked",
    "AllReady": "the primary accepts writes, and all instances are ready",
    "ArchiveFailing": "the log cannot be stored, and is kept on the volume; the message says why, and what is free",
    "BackupFailed": "the base backup that is due has failed; the message says why",
    "BackupOverdue": "a base backup is due, and none has begun or ended yet",
    "BackupUnsupported": "the engine makes no backups; take `backup` out of the specification",
    "BucketFound": "it can be used; the bucket was there before, so it is never removed with this object",
    "BucketMissing": "there is no such bucket: make it, or set `create: true`",
    "BucketOfAnother": "the bucket's name is taken by somebody else; choose another one",
    "Completed": "the base backup is stored whole, and the log up to its end with it",
    "CrashLoopBackOff": "a container of a Pod ends again and again; see its log",
    "CreateContainerConfigError": "a container of a Pod cannot be made; see the events of the Pod",
    "CreateContainerError": "a container of a Pod cannot be made; see the events of the Pod",
    "CredentialsRejected": "the store refuses the credentials: check the entries of the Secret, and what they allow",
    "DataDamaged": "the volume's data was complete once and is not now: give up this instance's volume, or restore",
    "DataLost": "the data existed, and no volume has it; the message has the restore to run",
    "DatabaseMissing": "there is no such Database: create it, or delete this Backup",
    "Degraded": "the primary accepts writes; the message says what is not as it should be",
    "Deleting": "it is being deleted; the message says what that waits for",
    "DurabilityUnsupported": "the engine has no synchronous replicas; set `durability.mode` to `async`",
    "Emptying": "it is being deleted, and its bucket is being emptied",
    "EngineUnknown": "no enabled plugin supplies the engine; the message names those that there are",
    "ErrImageNeverPull": "the image is not on the node, and may not be pulled",
    "ErrImagePull": "an image cannot be pulled: correct `spec.image`, or add `pod.imagePullSecrets`",
    "ForeignLease": "the Lease belongs to another life of this Database: delete it, and it is made anew",
    "ForeignVolume": "the volume holds another Database's data: give this instance an empty one",
    "ImagePullBackOff": "an image cannot be pulled: correct `spec.image`, or add `pod.imagePullSecrets`",
    "InternalError": "something unexpected went wrong; the log of the operator, or of the instance, has it",
    "InUse": "it is being deleted, and waits for those who use it",
    "InvalidImageName": "`spec.image` is no name of an image",
    "InvalidRequest": "an agent could not read what it was asked",
    "InvalidTarget": "the target of the restore cannot be read; the message says what form it has",
    "LeaseUnknown": "the primary's Lease cannot be read or renewed now: the API server is not reached",
    "LogFilling": "log that is not stored fills the volume: half is used, or four hours are left",
    "LogNearlyFull": "writes are about to stop: nine tenths of the volume are used, or half an hour is left",
    "LogVolumeUnsupported": "the engine has no volume of its own for the log; take `storage.log` out",
    "NoBackup": "no base backup is stored that a restore could begin with",
    "NoLog": "the engine keeps no log: base backups can be restored, and nothing between them",
    "NoPrimary": "no instance is the primary",
    "NoSpace": "a volume has no room: for a restore's data, or for the copy that a backup is made of; make it larger",
    "NotReady": "Something that must come first is not there yet.",
    "NotYetObserved": "nothing was heard yet",
    "Paused": "the instances are ready; nothing planned is begun while it is paused",
    "PodNotMade": "Kubernetes makes no Pod for an instance; `kubectl describe statefulset` says why",
    "PrimaryNotReady": "the primary does not accept writes: bring its Pod or node back, or give it up",
    "PrimaryNotServed": "the primary is ready, but its Pod has not the label yet by which the Service finds it",
    "Progressing": "what was asked for is under way: creation, a restore, a restart, an update, a switchover",
    "ProviderUnknown": "no enabled plugin supplies the provider; the message names those that there are",
    "Recoverable": "what was stored since the window's start can be restored; the message names it",
    "Refused": "the API server refuses an object of this one: the specification, a quota, a policy or a right is in its way",
    "ReplicaBroken": "a replica can never follow again; it is copied anew from the primary by itself",
    "ReplicasUnsupported": "the engine has no replicas; set `instances` to 1",
    "RestoreUnsupported": "the engine cannot be restored; take `bootstrap.restore` out",
    "RunContainerError": "a container of a Pod cannot be started; see the events of the Pod",
    "Running": "the base backup is being made",
    "SegmentConflict": "a segment of the log is stored already with other content, and is not replaced",
    "ServerProblem": "the server itself says that something is wrong; the message has its words",
    "SettingsRejected": "the server rejects settings, and goes on with the last good ones: correct `spec.settings`",
    "SettingRefused": "settings are asked for that are the operator's own, or would break a promise; the message names them",
    "SourceMissing": "there is nothing to restore from by that name: name `objectStore` and `path` instead",
    "StopOverdue": "a server was told to stop and did not; it is ended by force",
    "StorageShrink": "a volume cannot shrink: set the size back, or restore into a new Database",
    "SwitchoverRefused": "the instance named cannot become the primary: it is it already, or does not exist",
    "SwitchoverWaits": "no instance can take over now; the message says why of each",
    "TargetInvalid": "the target of the restore cannot be read, or is none of this engine's",
    "TargetOutsideWindow": "the target lies outside of what can be restored; the message names the window",
    "Unavailable": "the other side does not answer, or not now; it is tried again by itself",
    "Unreachable": "the store does not answer: check endpoint, network and store; it is tried again by itself",
    "Unschedulable": "a Pod finds no node: make room, or change `spec.pod` or `spec.resources`",
    "VersionChangeUnsupported": "data is not run by another major version: set `spec.version` and `spec.image` back",
    "VersionMismatch": "the image, or the data, has another version than `spec.version`: correct it, or `spec.image`",
    "VersionUnsupported": "the engine has no such version; the message names those that it has",
    "VolumeExpansionRefused": "a volume cannot grow: set `allowVolumeExpansion` on its class, or restore into a new Database",
    "VolumeFailed": "a volume does not take the data that is written to it; the message has its words",
    "WaitingForArchive": "it is deleted when its log is stored: make the store reachable, or give up what is not stored",
    "Waiting": "it begins when what the message names has ended, or is there",
}  # fmt: skip
"""What a reason says where the source has no sentence beside it, or one that is about a detail."""

EVENTS = {
    "ArchiveFailing": "an instance cannot store its log; the note says why, and what is free",
    "Archiving": "the condition is True again: every commit is stored as the policy asks",
    "BackupAttemptFailed": "an attempt at a base backup failed, and is made again",
    "BackupCompleted": "a base backup is stored, and the log up to its end with it",
    "BackupFailed": "a base backup failed for good; the note says why",
    "BackupRemoved": "retention has removed a base backup from the repository, and its Backup with it",
    "DataLost": "no volume has the data any more; `Ready` has the restore to run",
    "InstanceCreated": "an instance is being made",
    "InstanceRemoved": "an instance is being removed: fewer are wanted, or another one takes its place",
    "LeaseRestored": "the primary's Lease was deleted, and is made anew with what must not be lost",
    "LogFilling": "log that is not stored fills the volume of an instance",
    "LogNearlyFull": "log that is not stored has nearly filled the volume of an instance",
    "NotArchiving": "the condition is True no more; the note begins with its reason",
    "NotReady": "the condition is True no more; the note begins with its reason",
    "NotRecoverable": "the condition is True no more; the note begins with its reason",
    "PodReplaced": "a Pod is replaced by one of the present template: a rolling change",
    "PrimaryChanged": "another instance is the primary; the note names both",
    "PrimaryLost": "the volume of the primary is gone, and the named replica takes over",
    "Ready": "the condition is True again",
    "Recoverable": "the condition is True again: what is stored can be restored up to its end",
    "ReplicaBroken": "a replica cannot follow; the note says why, and whether it is copied anew",
    "Restored": "a restore has ended; the note names the base backup and the last commit",
    "ServerProblem": "a server says that something is wrong with it",
    "Switchover": "an instance has been told to become the primary: asked for, or in a rolling change",
    "TokenLost": "a Pod is replaced: its ServiceAccount was deleted, and with it the Pod's token",
}
"""What each event says. Besides these, what ends a pass over a Database is an event of the reason that `Ready` has."""
_CONDITIONS = ("Ready", "Archiving", "Recoverable")


@dataclass(frozen=True, slots=True)
class Found:
    """A reason, the sentence beside it ("" for none), and the module that it stands in."""

    reason: str
    text: str
    path: PurePath
    is_error: bool = False


def found(sources: Sources) -> Iterator[Found]:
    """Yield every reason that stands in the source, as often as it does."""
    places = _places(sources)
    for path, tree in sources:
        attributes = set[ast.AST]()
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                attributes.update(node.body)
                for line in node.body:
                    if _target(line) in _WORDS:
                        for reason in _choices(getattr(line, "value", None)):
                            yield Found(reason, (ast.get_docstring(node) or "").split("\n")[0], path, is_error=True)
            elif isinstance(node, ast.Call):
                for reason, text in _given(node, places):
                    yield Found(reason, text, path)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and _target(node) in _WORDS and node not in attributes:
                for reason in _choices(node.value):
                    yield Found(reason, "", path)
        if path.as_posix().startswith(_TABLES):
            for reason in _tables(tree):
                yield Found(reason, "", path)


def events(sources: Sources) -> frozenset[str]:
    """Return the reason of every event that stands in the source."""
    names = {name for kind in _CONDITIONS for name in (kind, f"Not{kind}")}
    for path, tree in sources:
        if "reconcilers" not in path.parts:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                names.update(_event(node))
            elif isinstance(node, ast.Assign) and _target(node) == "RECORDED" and isinstance(node.value, ast.Dict):
                names.update(word for key in node.value.keys for word in _choices(key))
    return frozenset(names)


def says(reason: str, beside: Iterable[str], anywhere: Iterable[str] = (), *, is_error: bool = False) -> str:
    """Return what a reason says: what is written here, else the longest sentence beside it, or elsewhere; "" for none.

    An error's own description comes first where the reason is the error's.
    """
    written = "" if is_error else SAYS.get(reason, "")
    return written or max(beside, key=len, default="") or max(anywhere, key=len, default="")


def camel(text: str | None) -> bool:
    """Whether a text is a CamelCase word."""
    return bool(text and re.fullmatch(r"[A-Z][a-z]+([A-Z][a-z]+)*", text))


def literal(node: ast.AST | None) -> str | None:
    """The text of a literal; of an f-string with an ellipsis where a value stands; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def _places(sources: Sources) -> dict[str, set[int]]:
    """Name of a class or function -> positions of its arguments that are reasons."""
    places: dict[str, set[int]] = defaultdict(set)
    for _, tree in sources:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                fields = [_target(line) for line in node.body if isinstance(line, ast.AnnAssign)]
                places[node.name].update(number for number, name in enumerate(fields) if name in _WORDS)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [argument.arg for argument in node.args.args]
                names = names[1:] if names[:1] in (["self"], ["cls"]) else names
                places[node.name].update(number for number, name in enumerate(names) if name in _WORDS)
    return places


def _given(node: ast.Call, places: dict[str, set[int]]) -> Iterator[tuple[str, str]]:
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if function in _TELL:
        return
    texts = [literal(argument) for argument in node.args]
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    message = literal(given.get("message")) or next((text for text in texts if text and not camel(text)), "")
    for word in _WORDS:
        for reason in _choices(given.get(word)):
            yield reason, message
    for place in places.get(function, ()):
        if place < len(node.args):
            for reason in _choices(node.args[place]):
                after = [text for text in texts[place + 1 :] if text]
                yield reason, literal(given.get("message")) or (after[0] if after else "")


def _event(node: ast.Call) -> Iterator[str]:
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if function in _TELL[:2] and len(node.args) > 1:
        yield from _choices(node.args[1])
    elif function in _TELL and node.args:
        yield from _choices(node.args[0])
    elif function == "append" and node.args and isinstance(node.args[0], ast.Tuple):
        yield from _choices(node.args[0].elts[0])


def _tables(tree: ast.Module) -> Iterator[str]:
    """The words of a module's tables: those that it leads to, where they are all words; else its keys, if they are."""
    for node in tree.body:
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Dict) and value.keys:
            for side in (value.values, value.keys):
                words = [literal(item) for item in side]
                if all(camel(word) for word in words):
                    yield from (str(word) for word in words)
                    break


def _choices(node: ast.AST | None) -> Iterator[str]:
    """The words that an expression may be."""
    if isinstance(node, ast.IfExp):
        yield from _choices(node.body)
        yield from _choices(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for part in node.values:
            yield from _choices(part)
    elif camel(text := literal(node)):
        yield str(text)


def _target(line: ast.AST) -> str:
    target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
    return target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""
