"""The page about metrics: every instrument that core and plugins make, found in the source.

Guarantees that each stands there under the name that Prometheus sees, with the labels that its observations have. Names,
descriptions and labels must be literals.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from docs.reasons import literal
from docs.table import table

ROOT = Path(__file__).resolve().parent.parent
Sources = Sequence[tuple[Path, ast.Module]]
"""Modules with their paths."""


@dataclass(frozen=True)
class Instrument:
    """An instrument as the source declares it."""

    name: str
    kind: str
    unit: str
    about: str
    labels: tuple[str, ...]
    module: str


_KINDS = {
    "create_counter": "counter",
    "create_observable_counter": "counter",
    "create_up_down_counter": "gauge",
    "create_observable_up_down_counter": "gauge",
    "create_gauge": "gauge",
    "create_observable_gauge": "gauge",
    "create_histogram": "histogram",
}
_UNITS = {"s": "seconds", "By": "bytes", "ms": "milliseconds"}


def page(sources: Sources) -> str:
    """Return the page."""
    rows = [
        (
            f"`{one.name}`",
            one.kind,
            ", ".join(f"`{label}`" for label in one.labels),
            one.about.rstrip("."),
            f"`{one.module}`",
        )
        for one in instruments(sources)
    ]
    return (
        "# Metrics\n\n"
        "Operator: port 8080, path `/metrics`. Instances: port 9187. The chart's value `podMonitor` has Prometheus scrape\n"
        "both; it labels instances with `yoban_dev_database`, `yoban_dev_instance` and `yoban_dev_role`. Names are as\n"
        "Prometheus sees them; by OTLP they have dots and no suffix.\n\n"
        + table(("metric", "kind", "labels", "meaning", "where"), rows)
    )


def instruments(sources: Sources) -> list[Instrument]:
    """Return every instrument by name."""
    found: dict[str, Instrument] = {}
    for path, tree in sources:
        module = ".".join(path.relative_to(ROOT / path.relative_to(ROOT).parts[0]).with_suffix("").parts)
        module = re.sub(r"^(postgres|mysql|s3)\.", "", module)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                for one in _Module(tree, module).instruments(node):
                    found[one.name] = one
    return sorted(found.values(), key=lambda one: one.name)


def metric(name: str, unit: str, kind: str) -> str:
    """The name as Prometheus sees it; the same rule as `yoban.telemetry.prometheus`."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    suffix = _UNITS.get(unit, "")
    if suffix and not name.endswith(f"_{suffix}"):
        name += f"_{suffix}"
    return f"{name}_total" if kind == "counter" and not name.endswith("_total") else name


class _Module:
    """One module of the source."""

    def __init__(self, tree: ast.Module, name: str) -> None:
        self._tree = tree
        self._name = name

    def instruments(self, node: ast.Call) -> Iterator[Instrument]:
        """Yield what a call makes."""
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg: literal(keyword.value) for keyword in node.keywords}
        texts = [literal(argument) for argument in node.args]
        if function == "Gauges" and len(node.args) == 2 and isinstance(node.args[0], ast.Lambda):
            labels = _keys(node.args[0].body)
            for part in node.args[1].elts if isinstance(node.args[1], ast.List) else ():
                assert isinstance(part, ast.Tuple)
                name, about, unit = (literal(text) or "" for text in part.elts[:3])
                yield self._made(name, "gauge", unit, about, labels)
        elif function == "Tally" and len(texts) >= 2 and texts[0]:
            labels = tuple(ast.literal_eval(node.args[2]))
            yield self._made(texts[0], "counter", given.get("unit") or "", str(texts[1]), labels)
        elif function == "gauge" and len(texts) >= 4 and texts[0] and texts[1] is not None and texts[2]:
            yield self._made(texts[0], "gauge", texts[1], texts[2], self._observed(node.args[3]))
        elif function in _KINDS and texts and texts[0]:
            places = [text for text in texts[1:] if text is not None]
            unit = given.get("unit") or (places[0] if places else "") or ""
            about = given.get("description") or (places[1] if len(places) > 1 else "") or ""
            yield self._made(texts[0], _KINDS[function], unit, about, self._recorded(node))

    def _made(self, name: str, kind: str, unit: str, about: str, labels: tuple[str, ...]) -> Instrument:
        return Instrument(metric(name, unit, kind), kind, unit, about, labels, self._name)

    def _observed(self, reader: ast.expr) -> tuple[str, ...]:
        """Labels of what a reader yields: a function of the module, or one that such a function returns."""
        name = reader.func if isinstance(reader, ast.Call) else reader
        for node in ast.walk(self._function(getattr(name, "id", ""))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Observation" and len(node.args) == 2:
                return self._labels(node.args[1])
        return ()

    def _recorded(self, made: ast.Call) -> tuple[str, ...]:
        """Labels that are given where the instrument, a variable of the module, is written to."""
        names = [
            target.id
            for line in self._tree.body
            if isinstance(line, ast.Assign) and line.value is made
            for target in line.targets
            if isinstance(target, ast.Name)
        ]
        for node in ast.walk(self._tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("record", "add")
                and getattr(node.func.value, "id", "") in names
                and len(node.args) == 2
            ):
                return self._labels(node.args[1])
        return ()

    def _labels(self, node: ast.expr) -> tuple[str, ...]:
        """The keys of a dict: as it stands there, or as a function of the module returns it or an attribute is set to it."""
        if isinstance(node, ast.Call):
            returns = [
                one.value
                for one in ast.walk(self._function(getattr(node.func, "id", "")))
                if isinstance(one, ast.Return)
            ]
            return next((keys for value in returns if (keys := _keys(value))), ())
        if isinstance(node, ast.Attribute):
            for one in ast.walk(self._tree):
                target = one.targets[0] if isinstance(one, ast.Assign) else getattr(one, "target", None)
                if (
                    isinstance(target, ast.Attribute)
                    and target.attr == node.attr
                    and (keys := _keys(getattr(one, "value", None)))
                ):
                    return keys
        return _keys(node)

    def _function(self, name: str) -> ast.AST:
        return next(
            (node for node in ast.walk(self._tree) if isinstance(node, ast.FunctionDef) and node.name == name),
            ast.Pass(),
        )


def _keys(node: ast.AST | None) -> tuple[str, ...]:
    return tuple(literal(key) or "" for key in node.keys) if isinstance(node, ast.Dict) else ()
