"""Documentation cannot fall behind: commands exist, hooks and facets are described, generated pages are current."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
import yoban.plugins
from yoban.cli.main import COMMANDS
from yoban.plugins.hookspecs import HookSpecs

from docs import generate, metrics, reasons

ROOT = Path(__file__).parents[3]
GENERATED = generate.pages()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> Iterator[str]:
    """Lines of shell that a page shows."""
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text(), re.DOTALL):
        yield from (line.strip().removeprefix("$ ") for line in block.splitlines())


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_target_has_a_line_of_help() -> None:
    text = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE)) == make_targets()
    wanted = {
        "help",
        "test",
        "demo",
        "check",
        "lab",
        "lab-down",
        "image",
        "bench",
        "demo-down",
        "test-unit",
        "lock",
        "docs",
    }
    assert wanted <= make_targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_commands_that_are_shown_exist(page: Path) -> None:
    shown = {name for line in commands(page) for name in re.findall(r"(?:^|\s)make ([a-z-]+)", line)}
    shown |= set(re.findall(r"`make ([a-z-]+)", page.read_text()))
    assert shown <= make_targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yoban_commands_that_are_shown_exist(page: Path) -> None:
    shown = set(re.findall(r"(?:`|^)(?:kubectl )?yoban ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert shown <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_listed_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if (ROOT / "docs") in page.parents]
    assert [page for page in pages if page != "index.md" and f"({page})" not in index] == []


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_generated_pages_are_current(name: str) -> None:
    assert (generate.REFERENCE / name).read_text() == GENERATED[name], "run `make docs`"


def test_every_metric_says_what_it_means() -> None:
    found = metrics.instruments(list(generate.sources()))
    assert len(found) > 30
    assert [one.name for one in found if not one.about] == []


def test_labels_of_metrics_are_those_of_their_observations() -> None:
    labels = {one.name: one.labels for one in metrics.instruments(list(generate.sources()))}
    wanted = {
        "yoban_instance_problems": ("reason",), "yoban_instance_role": ("role",), "yoban_instance_ready": (),
        "yoban_replication_streaming": ("replica",), "yoban_lease_leading": ("lease",),
        "yoban_kube_cache_objects": ("resource",), "yoban_kube_cache_synced": ("resource",),
        "yoban_workqueue_depth": ("queue",), "yoban_workqueue_queue_duration_seconds": ("queue",),
        "yoban_controller_workers": ("controller",), "yoban_controller_reconcile_duration_seconds": ("controller",),
        "yoban_controller_reconciles_total": ("controller", "outcome"),
        "yoban_database_ready": ("namespace", "database"), "yoban_backup_age_seconds": ("namespace", "database"),
    }  # fmt: skip
    assert {name: labels[name] for name in wanted} == wanted


def test_metrics_are_named_as_prometheus_gets_them() -> None:
    """The page's rule for names is the renderer's."""
    from yoban.telemetry.setup import build

    telemetry = build("t", "", {})
    meter = telemetry.meters.get_meter("m")
    meter.create_counter("a.b", unit="By").add(1)
    meter.create_gauge("c.d", unit="s").set(1)
    text = telemetry.metrics_text()[0].decode()
    assert f"\n{metrics.metric('a.b', 'By', 'counter')} " in text
    assert f"\n{metrics.metric('c.d', 's', 'gauge')} " in text


def test_every_hook_is_documented() -> None:
    text = (ROOT / "docs" / "write-a-plugin.md").read_text()
    for name, hook in vars(HookSpecs).items():
        if name.startswith("yoban_"):
            assert f"`{name}" in text
            assert inspect.getdoc(hook)


def test_every_facet_and_method_is_documented() -> None:
    text = (ROOT / "docs" / "write-a-plugin.md").read_text()
    for name in ("Engine", "Positions", "Targets", "Server", "Replication", "BaseBackup", "LogSource", "Recovery"):
        facet = getattr(yoban.plugins, name)
        assert f"`{name}`" in text, name
        missing = [method for method in sorted(facet.__abstractmethods__) if f"`{method}" not in text]
        assert missing == [], f"{name}: {missing}"


def test_every_public_name_of_the_plugin_api_is_described() -> None:
    for name in yoban.plugins.__all__:
        thing = getattr(yoban.plugins, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name
            assert thing.__module__.startswith("yoban.plugins"), name
    exported = {name for name in vars(yoban.plugins) if not name.startswith("_") and name[0].isupper()}
    assert exported == {name for name in yoban.plugins.__all__ if name[0].isupper()}


def test_every_public_method_of_the_contract_says_what_it_does() -> None:
    for name in yoban.plugins.__all__:
        thing = getattr(yoban.plugins, name)
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                if not method.startswith("_") and inspect.isfunction(function):
                    assert inspect.getdoc(function), f"{name}.{method}"


NO_REASONS = {
    # of Kubernetes
    "AlwaysAllow", "BackupPolicy", "ConfigMap", "NetworkPolicy", "ObjectStore", "OnDelete", "OnRootMismatch",
    "PersistentVolumeClaim", "PodDisruptionBudget", "PodScheduled", "ReadWriteOnce", "RoleBinding", "RuntimeDefault",
    "ServiceAccount", "StatefulSet",
    # what the registry calls what a condition calls otherwise
    "UnknownEngine", "UnsupportedVersion",
}  # fmt: skip


def camel_words() -> dict[str, str]:
    """Every literal of two words or more in CamelCase in what makes conditions, with its place; no name that is exported."""
    found = {}
    for folder in ("agent", "domain", "reconcilers", "repository"):
        for path in sorted((ROOT / "core/yoban" / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            lists = [n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
            exported = {word for one in lists for word in ast.literal_eval(one.value)}
            for node in ast.walk(tree):
                word = reasons.literal(node) or ""
                if reasons.camel(word) and re.search(r"[a-z][A-Z]", word) and word not in exported:
                    found[word] = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
    return found


def test_no_reason_or_event_of_core_is_missing() -> None:
    """Each word that looks like one is in the page; another way to find them than the page's own."""
    page = GENERATED["conditions.md"]
    words = camel_words()
    assert len(words) > 80
    missing = {word: place for word, place in words.items() if f"`{word}`" not in page and word not in NO_REASONS}
    assert missing == {}, "give it as `reason`, where docs/reasons.py looks, or name it in NO_REASONS"
    assert set(words) >= NO_REASONS, "some are gone"


@pytest.mark.parametrize(
    "word",
    ["Progressing", "NoPrimary", "PrimaryNotReady", "DataDamaged", "ForeignVolume", "ForeignLease", "LeaseUnknown",
     "Waiting", "EngineUnknown", "TargetInvalid", "ReplicasUnsupported", "ImagePullBackOff", "CrashLoopBackOff",
     "PodNotMade", "VersionChangeUnsupported", "DataLost", "PrimaryLost", "TokenLost"],
)  # fmt: skip
def test_what_one_looks_up_at_night_is_there(word: str) -> None:
    assert f"| `{word}` |" in GENERATED["conditions.md"]


def test_every_reason_and_event_says_something() -> None:
    empty = [(part, reason) for part, rows in generate.reasons().items() for reason, text in rows if not text]
    assert empty == [], "write it in SAYS of docs/reasons.py"
    assert [reason for reason, text in generate.events() if not text] == [], "write it in EVENTS of docs/reasons.py"


def test_no_text_is_of_a_reason_or_event_that_is_gone() -> None:
    given = {reason for rows in generate.reasons().values() for reason, _ in rows}
    assert set(reasons.SAYS) - given == set()
    assert set(reasons.EVENTS) == {reason for reason, _ in generate.events()}


def test_reasons_are_found_wherever_one_can_stand() -> None:
    text = """
class Broken(Exception):
    'It is broken.'
    reason = 'IsBroken'

class Fault:
    reason: str
    message: str

def lacks(what, reason): ...

_REASONS = {'gone': 'TableValue', 'away': 'OtherValue'}
_FIXES = {'TableKey': 'mend it', 'OtherKey': 'mend that'}

def work(error, ready):
    reason = 'ChoiceOne' if ready else 'ChoiceTwo' if error else 'ChoiceThree'
    error.reason = 'AttributeGiven'
    lacks('nothing', 'PositionGiven')
    yield Fault('FieldGiven', 'a sentence')
    yield Fault(error.reason or 'FallenBackTo', message='another')
    yield Step(problem='ProblemGiven' if ready else '', fix='x')
    tell(error, 'AnEvent', 'told')
"""
    path = Path("core/yoban/reconcilers/x.py")
    sources = [(path, ast.parse(text))]
    texts = {one.reason: one.text for one in reasons.found(sources)}
    assert texts == {
        "IsBroken": "It is broken.", "TableValue": "", "OtherValue": "", "TableKey": "", "OtherKey": "", "ChoiceOne": "",
        "ChoiceTwo": "", "ChoiceThree": "", "AttributeGiven": "", "PositionGiven": "", "FieldGiven": "a sentence",
        "FallenBackTo": "another", "ProblemGiven": "",
    }  # fmt: skip
    assert "AnEvent" in reasons.events(sources)


def test_every_section_of_operations_with_commands_is_run() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    headings = [part.partition("\n") for part in re.split(r"^## ", "\n" + page, flags=re.MULTILINE)]
    shown = {heading for heading, _, text in headings if "\n```sh\n" in text}
    run = set(re.findall(r"read\(\"([^\"]*)\"\)", (ROOT / "tests/e2e/test_operations.py").read_text()))
    assert len(shown) > 6
    assert shown == run


def test_every_condition_that_operations_names_is_one() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    named = {word for word in re.findall(r"`([A-Z]\w+)`", page) if re.search(r"[a-z][A-Z]", word)}
    assert named
    assert {word for word in named if f"| `{word}` |" not in GENERATED["conditions.md"]} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / target if target else page).read_text()
        headings = [
            re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-")
            for line in re.findall(r"^#+ (.*)", text, re.MULTILINE)
        ]
        assert anchor in headings, anchor


def test_the_plugin_page_has_every_attribute_and_shows_defaults() -> None:
    page = GENERATED["plugin-api.md"]
    for row in (
        "| `name` | `str` |  | Value of `spec.engine` (lower case letters, digits, `-`). |",
        "| `targets` | `Targets \\| None` | `None` |  |",
        "| `replication_user` | `str` | `'yoban-replication'` |",
        "| `supported` | `frozenset[TargetType]` |  | Types that this engine can recover to. |",
        "| `secret_keys` | `Mapping[str, str]` | `{}` |",
        "| `FIXED` | `fixed` | Set by us; a user's value is rejected. |",
        "def list(prefix: str = '', *, after: str = '') -> AsyncIterator[ObjectInfo]",
    ):
        assert row in page, row
    assert "is reserved and not used yet" in page
    for name in yoban.plugins.__all__:
        thing = getattr(yoban.plugins, name)
        if inspect.isclass(thing):
            section = page.partition(f"\n### `{name}`\n")[2].partition("\n### ")[0]
            for attribute in getattr(thing, "__annotations__", {}):
                assert attribute.startswith("_") or f"| `{attribute}` |" in section, f"{name}.{attribute}"


def test_the_plugin_page_says_what_the_facets_need() -> None:
    """The table in write-a-plugin.md names every method of a facet, those with a default, too."""
    text = (ROOT / "docs" / "write-a-plugin.md").read_text()
    for name in ("Server", "Replication", "BaseBackup", "LogSource", "Recovery"):
        facet = getattr(yoban.plugins, name)
        methods = [member for member, thing in vars(facet).items() if inspect.isfunction(thing) and member[0] != "_"]
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert [method for method in methods if f"`{method}`" not in row] == [], name


def test_the_size_that_is_told_of_the_toy_is_its_size() -> None:
    text = (ROOT / "docs" / "write-a-plugin.md").read_text()
    (told,) = re.findall(r"takes about (\d+) lines: `tests/toy/yoban_toy`", text)
    lines = (ROOT / "tests/toy/yoban_toy/__init__.py").read_text().count("\n")
    assert abs(int(told) - lines) <= 25


def test_the_first_steps_of_the_readme_fit_together() -> None:
    """What it applies refers to what it has applied before, and what its commands name is in it."""
    lines = [line.split("#")[0].split() for line in commands(ROOT / "README.md")]
    applied = [words[-1] for words in lines if words[:3] == ["kubectl", "apply", "-f"]]
    assert len(applied) == 3
    there = set[tuple[str, str]]()
    for file in applied:
        for one in yaml.safe_load_all((ROOT / file).read_text()):
            spec, refers = one.get("spec", {}), set[tuple[str, str]]()
            if policy := spec.get("backup", {}).get("policy"):
                refers.add(("BackupPolicy", policy))
            if source := spec.get("bootstrap", {}).get("restore", {}).get("source"):
                refers.add(("Database", source["database"]))
            if one["kind"] == "Backup":
                refers.add(("Database", spec["database"]))
            if secret := spec.get("credentials", {}).get("secret"):
                refers.add(("Secret", secret))
            refers |= {("ObjectStore", place["objectStore"]) for place in spec.get("destinations", ())}
            assert refers <= there, file
            there.add((one["kind"], one["metadata"]["name"]))
    assert ("Database", "orders") in there
    (traced,) = [words[-1] for words in lines if words[:3] == ["kubectl", "yoban", "trace"]]
    assert ("Backup", traced) in there


def test_a_restore_by_the_name_of_a_database_is_valid() -> None:
    from yoban.model.database import Database

    restored = Database.parse(yaml.safe_load((ROOT / "deploy/samples/restore.yaml").read_text()))
    assert restored.spec.bootstrap is not None
    assert restored.spec.bootstrap.restore is not None
    assert restored.spec.bootstrap.restore.source.wire() == {"database": "orders"}


@pytest.mark.parametrize("page", ["README.md", "docs/write-a-plugin.md"])
def test_the_image_of_a_plugin_is_built_as_the_lab_builds_one(page: str) -> None:
    """Each stage that is named is there, and a wheel is unpacked by the same command."""
    (shown,) = re.findall(r"```dockerfile\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    ours = (ROOT / "deploy/lab/images/yoban-toy/Containerfile").read_text()
    unpack = r"/opt/yoban/bin/ld\.so .* -m zipfile -e"
    assert re.findall(unpack, shown) == re.findall(unpack, ours) != []
    assert set(re.findall(r"--from=(\w+)", shown)) == set(re.findall(r" AS (\w+)", shown))
    assert (
        "COPY --from=build /site/ /opt/yoban/lib/site/" in shown
        and "COPY --from=build /site/ /opt/yoban/lib/site/" in ours
    )
