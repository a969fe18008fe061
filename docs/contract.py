"""The page about the plugin API: everything that `yoban.plugins` exports, made of its docstrings.

Guarantees that each public method and each annotated attribute is there, with its default and what it says.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from docs.table import table

FACETS = (
    "Engine", "Positions", "Targets", "Server", "Replication", "BaseBackup", "BackupSession", "LogSource", "Recovery",
    "ObjectStoreProvider", "ObjectStore", "BucketAdmin",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute as the source declares it; texts, "" for what is not there."""

    name: str
    annotation: str
    default: str
    about: str


class _Bare(str):
    """An annotation that is shown as it is written: it is a text, since it is not evaluated."""

    def __repr__(self) -> str:
        return str(self)


def page() -> str:
    """Return the page."""
    import yoban.plugins
    from yoban.plugins.hookspecs import HookSpecs

    text = (
        f"# Plugin API {'.'.join(map(str, yoban.plugins.API_VERSION))}\n\nEverything that `yoban.plugins` exports. "
        "[Write a plugin](../write-a-plugin.md) shows how it fits together.\n\n## Hooks\n\n"
    )
    for name, function in vars(HookSpecs).items():
        if name.startswith("yoban_"):
            text += _member(name, function, heading="###")
    others = [name for name in yoban.plugins.__all__ if name not in FACETS]
    for title, names in (("Facets and stores", FACETS), ("Values", others)):
        text += f"## {title}\n\n"
        for name in names:
            thing = getattr(yoban.plugins, name)
            if inspect.isclass(thing):
                text += _class(name, thing)
    return text


def attributes(thing: type) -> Iterator[Attribute]:
    """Yield what a class declares in its body beside methods; of an Enum its members."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    assert isinstance(tree, ast.ClassDef)
    for line, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if not isinstance(target, ast.Name) or target.id.startswith("_"):
            continue
        value, annotation = getattr(line, "value", None), getattr(line, "annotation", None)
        about = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            about = inspect.cleandoc(str(following.value.value))
        yield Attribute(
            target.id,
            ast.unparse(annotation) if annotation is not None else "",
            _default(value) if value is not None else "",
            about,
        )


def signature(function: Any) -> str:
    """Return a function's signature, without `self`, annotations and defaults as they are written."""
    found = inspect.signature(function)
    parameters = [
        one.replace(annotation=_Bare(one.annotation) if isinstance(one.annotation, str) else one.annotation)
        for name, one in found.parameters.items()
        if name != "self"
    ]
    returned = found.return_annotation
    return str(
        inspect.Signature(parameters, return_annotation=_Bare(returned) if isinstance(returned, str) else returned)
    )


def _default(value: ast.expr) -> str:
    """A default; of a dataclass's field what the field says."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "dataclasses.field"):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
        factory = given.get("default_factory", "")
        return given.get("default") or (f"{factory}()" if factory else "")
    return ast.unparse(value)


def _class(name: str, thing: type) -> str:
    text = f"### `{name}`\n\n{_doc(thing)}\n\n"
    if issubclass(thing, Enum):
        about = {one.name: one.about for one in attributes(thing)}
        rows = [(f"`{member.name}`", f"`{member.value}`", about.get(member.name, "")) for member in thing]
        return text + table(("member", "value", "says"), rows) + "\n"
    declared = list(attributes(thing))
    if declared:
        shown = [
            (
                f"`{one.name}`",
                f"`{one.annotation}`" if one.annotation else "",
                f"`{one.default}`" if one.default else "",
                one.about,
            )
            for one in declared
        ]
        text += table(("attribute", "type", "default", "says"), shown) + "\n"
    names = {one.name for one in declared}
    for member, function in vars(thing).items():
        if member.startswith("_") or member in names:
            continue
        if isinstance(function, property):
            text += f"#### `{member}` (property)\n\n{_doc(function)}\n\n"
        elif inspect.isfunction(function):
            text += _member(
                member, function, heading="####", abstract=member in getattr(thing, "__abstractmethods__", ())
            )
    return text


def _member(name: str, function: Any, *, heading: str, abstract: bool = True) -> str:
    kind = "async def" if inspect.iscoroutinefunction(function) else "def"
    note = "" if abstract else "\n\nMay be left out: there is a default."
    return f"{heading} `{name}`\n\n```python\n{kind} {name}{signature(function)}\n```\n\n{_doc(function)}{note}\n\n"


def _doc(thing: object) -> str:
    """A docstring as Markdown: sections of names become lists."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    out: list[str] = []
    inside = False
    for line in lines:
        if re.fullmatch(r"(Args|Attributes|Raises)(, .*)?:|Raises, .*:", line):
            inside = True
            out += [f"**{line.removesuffix(':')}**", ""]
        elif inside and (item := re.match(r"    (?! )([^:]+): (.*)", line)):
            out.append(f"- `{item[1]}`: {item[2]}")
        elif inside and line.startswith("    "):
            out.append(f"  {line.strip()}")
        else:
            inside = False
            out.append(line)
    return "\n".join(out)
