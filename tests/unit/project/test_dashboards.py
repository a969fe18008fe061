"""Dashboard and alerts ask only for metrics that exist, by labels that they have."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
import yaml

from docs import generate, metrics

FOLDER = Path(__file__).parents[3] / "deploy" / "dashboards"


@functools.cache
def known() -> set[str]:
    names = set()
    for one in metrics.instruments(list(generate.sources())):
        names.add(one.name)
        if one.kind == "histogram":
            names |= {f"{one.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def expressions() -> list[str]:
    dashboard = json.loads((FOLDER / "yoban.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    alerts = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    return found + [rule["expr"] for group in alerts["spec"]["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("expression", expressions())
def test_metrics_exist(expression: str) -> None:
    asked = set(re.findall(r"\b((?:yoban|process)_\w+)", re.sub(r"\{[^}]*\}|by \([^)]*\)", "", expression)))
    assert asked
    assert asked <= known()


def test_outcomes_are_those_of_the_controller() -> None:
    source = (FOLDER.parents[1] / "core/yoban/runtime/controller.py").read_text()
    for expression in expressions():
        for outcome in re.findall(r'outcome="(\w+)"', expression):
            assert f'"{outcome}"' in source


def test_that_nobody_leads_is_told_also_when_there_is_no_operator() -> None:
    """A sum over nothing is nothing, not 0, and an alert over nothing is silent."""
    alerts = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    rules = {rule["alert"]: rule["expr"] for group in alerts["spec"]["groups"] for rule in group["rules"]}
    assert rules["YobanNobodyLeads"].endswith("or vector(0)) < 1")


def test_every_alert_says_what_it_means_and_how_bad_it_is() -> None:
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["spec"]["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert set(rule["annotations"]) == {"summary", "description"}


def test_panels_do_not_lie_on_each_other() -> None:
    places = [panel["gridPos"] for panel in json.loads((FOLDER / "yoban.json").read_text())["panels"]]
    taken = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(taken) == len(set(taken))
