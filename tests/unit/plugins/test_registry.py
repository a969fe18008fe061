"""One test for each message of the registry; distributions are fake dist-infos on the path."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from yoban.errors import InvalidInput, PluginError, Unsupported
from yoban.plugins import API_VERSION, hookimpl
from yoban.plugins.registry import Registry, names

Install = Callable[..., None]
Entries = Callable[[], list[EntryPoint]]

STORE = """
    from yoban.plugins import ObjectStoreProvider, hookimpl
    YOBAN_PLUGIN_API = (1, 0)
    class Provider(ObjectStoreProvider):
        name = "{name}"
        title = "A store"
        def check(self, config): ...
        def open(self, config): ...
    @hookimpl
    def yoban_object_stores():
        return [Provider()]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    def install(plugin: str, source: str, *, distribution: str = "", version: str = "1.2.3") -> None:
        distribution = distribution or f"yoban-{plugin}"
        module = "fake_" + distribution.replace("-", "_")
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[yoban.plugins]\n{plugin} = {module}\n")

    return install


@pytest.fixture
def entries(site: Path) -> Entries:
    return lambda: [entry for one in distributions(path=[str(site)]) for entry in one.entry_points]


def refused(plugins: dict[str, Any]) -> str:
    with pytest.raises(PluginError) as caught:
        Registry.in_process(plugins)
    return str(caught.value)


def plugin(**attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"YOBAN_PLUGIN_API": API_VERSION, **attributes})


def stores(*given: Any) -> Any:
    @hookimpl
    def yoban_object_stores() -> Any:
        return list(given)

    return yoban_object_stores


def test_a_good_plugin_is_found_by_its_entry_point(install: Install, entries: Entries) -> None:
    install("shelf", STORE.format(name="shelf"))
    registry = Registry.load(entries=entries())
    assert registry.store_provider("shelf").title == "A store"
    (row,) = registry.table()
    assert (row.name, row.kind, row.api, row.enabled) == ("shelf", "object store", "1.0", True)
    assert str(row.source) == "plugin 'shelf' (yoban-shelf 1.2.3)"


def test_plugins_are_loaded_in_the_order_of_their_names(install: Install, entries: Entries) -> None:
    for name in ("bb", "cc", "aa"):
        install(name, STORE.format(name=name))
    assert [row.name for row in Registry.load(entries=reversed(entries())).table()] == ["aa", "bb", "cc"]


def test_a_plugin_that_is_not_allowed_is_not_imported(install: Install, entries: Entries) -> None:
    install("shelf", STORE.format(name="shelf"))
    install("bomb", "raise RuntimeError('imported')")
    registry = Registry.load(["shelf"], entries=entries())
    row = next(row for row in registry.table() if row.name == "bomb")
    assert (row.enabled, row.note, row.api) == (False, "not listed in YOBAN_PLUGINS", "-")
    assert "fake_yoban_bomb" not in sys.modules


def test_disabled_wins_over_allowed(install: Install, entries: Entries) -> None:
    install("shelf", STORE.format(name="shelf"))
    registry = Registry.load(["shelf"], ["shelf"], entries=entries())
    assert registry.store_providers == {}
    assert registry.table()[0].note == "disabled by YOBAN_PLUGINS_DISABLED"


@pytest.mark.parametrize(
    ("allow", "disabled", "variable"),
    [(["nope"], [], "YOBAN_PLUGINS"), ([], ["nope"], "YOBAN_PLUGINS_DISABLED")],
)
def test_a_name_that_is_not_installed(
    install: Install, entries: Entries, allow: list[str], disabled: list[str], variable: str
) -> None:
    install("shelf", STORE.format(name="shelf"))
    with pytest.raises(PluginError) as caught:
        Registry.load(allow, disabled, entries=entries())
    assert str(caught.value) == (
        f"{variable} names plugin 'nope', which is not installed (installed: shelf); "
        f"install its distribution in the operator's image, or take it out of {variable}"
    )


def test_a_plugin_name_from_two_distributions(install: Install, entries: Entries) -> None:
    install("shelf", STORE.format(name="shelf"))
    install("shelf", STORE.format(name="shelf"), distribution="other-shelf", version="9")
    with pytest.raises(PluginError) as caught:
        Registry.load(entries=entries())
    assert str(caught.value) == (
        "plugin 'shelf' is installed twice: by other-shelf 9 and yoban-shelf 1.2.3; uninstall one of them"
    )


def test_a_plugin_that_cannot_be_imported(install: Install, entries: Entries) -> None:
    install("broken", "import not_there_at_all")
    with pytest.raises(PluginError) as caught:
        Registry.load(entries=entries())
    assert str(caught.value) == (
        "plugin 'broken' (yoban-broken 1.2.3): cannot be imported from 'fake_yoban_broken' "
        "(ModuleNotFoundError: No module named 'not_there_at_all'); "
        "mend or reinstall it, or add 'broken' to YOBAN_PLUGINS_DISABLED"
    )


def test_an_engine_name_provided_twice(install: Install, entries: Entries) -> None:
    install("shelf", STORE.format(name="shelf"))
    install("zz", STORE.format(name="shelf"))
    with pytest.raises(PluginError) as caught:
        Registry.load(entries=entries())
    assert str(caught.value) == (
        "object store 'shelf' is provided twice: plugin 'shelf' (yoban-shelf 1.2.3) and plugin 'zz' (yoban-zz 1.2.3); "
        "disable one with YOBAN_PLUGINS_DISABLED"
    )


def test_no_api_version() -> None:
    assert refused({"x": SimpleNamespace()}) == (
        "plugin 'x' (in-process): declares no YOBAN_PLUGIN_API; add YOBAN_PLUGIN_API = (1, 0)"
    )


@pytest.mark.parametrize("value", ["1.0", (1,), (1, "0"), [1, 0], (True, 0)])
def test_an_api_version_that_is_none(value: object) -> None:
    assert refused({"x": SimpleNamespace(YOBAN_PLUGIN_API=value)}) == (
        f"plugin 'x' (in-process): declares YOBAN_PLUGIN_API = {value!r}, which is no pair of integers; "
        "write YOBAN_PLUGIN_API = (1, 0)"
    )


@pytest.mark.parametrize(
    ("api", "fix"),
    [
        ((2, 0), "upgrade the operator, or install an older release of the plugin"),
        ((1, 1), "upgrade the operator, or install an older release of the plugin"),
        ((0, 9), "install a newer release of the plugin"),
    ],
)
def test_another_api_version(api: tuple[int, int], fix: str) -> None:
    assert refused({"x": SimpleNamespace(YOBAN_PLUGIN_API=api)}) == (
        f"plugin 'x' (in-process): needs plugin API {api[0]}.{api[1]}, this operator provides 1.0; {fix}"
    )


def test_an_unknown_hook() -> None:
    @hookimpl
    def yoban_engine() -> list[object]:
        return []

    assert refused({"x": plugin(yoban_engine=yoban_engine)}) == (
        "plugin 'x' (in-process): unknown hook 'yoban_engine'; use one of the hooks yoban_engines, yoban_object_stores"
    )


def test_a_hook_with_an_argument_that_there_is_not() -> None:
    @hookimpl
    def yoban_engines(config: object) -> list[object]:
        return []

    text = refused({"x": plugin(yoban_engines=yoban_engines)})
    assert text.startswith("plugin 'x' (in-process): cannot be registered (")
    assert "config" in text
    assert text.endswith("; give the hook the name and arguments that yoban.plugins.hookspecs has")


def test_a_hook_with_a_default_argument() -> None:
    @hookimpl
    def yoban_engines(config: object = None) -> list[object]:
        return []

    assert refused({"x": plugin(yoban_engines=yoban_engines)}) == (
        "plugin 'x' (in-process): yoban_engines takes arguments; take none, not even with a default"
    )


def test_an_async_hook() -> None:
    @hookimpl
    async def yoban_engines() -> list[object]:
        return []

    assert refused({"x": plugin(yoban_engines=yoban_engines)}) == (
        "plugin 'x' (in-process): yoban_engines must not be 'async def'; write 'def' and return a list"
    )


def test_a_hook_wrapper() -> None:
    @hookimpl(wrapper=True)
    def yoban_engines() -> Any:
        return (yield)

    assert refused({"x": plugin(yoban_engines=yoban_engines)}) == (
        "plugin 'x' (in-process): yoban_engines is a hook wrapper; write a plain function"
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "TypeError: it returned None, not a list"),
        ("text", "TypeError: it returned 'text', not a list"),
        (3, "TypeError: 'int' object is not iterable"),
    ],
)
def test_a_hook_that_returns_no_list(answer: object, why: str) -> None:
    @hookimpl
    def yoban_engines() -> object:
        return answer

    assert refused({"x": plugin(yoban_engines=yoban_engines)}) == (
        f"plugin 'x' (in-process): yoban_engines failed ({why}); "
        "return a list, empty when it supplies none; complete what an abstract class asks for"
    )


def test_a_hook_that_raises() -> None:
    from yoban.plugins import ObjectStoreProvider

    class Half(ObjectStoreProvider):
        name = "half"

    @hookimpl
    def yoban_object_stores() -> list[object]:
        return [Half()]  # type: ignore[abstract]

    text = refused({"x": plugin(yoban_object_stores=yoban_object_stores)})
    assert (
        "plugin 'x' (in-process): yoban_object_stores failed (TypeError: Can't instantiate abstract class Half" in text
    )


def test_a_hook_that_returns_something_else() -> None:
    from yoban.plugins import ObjectStoreProvider

    assert refused({"x": plugin(yoban_object_stores=stores("s3"))}) == (
        "plugin 'x' (in-process): yoban_object_stores returned 's3'; "
        "return instances of yoban.plugins.ObjectStoreProvider"
    )
    assert refused({"x": plugin(yoban_object_stores=stores(ObjectStoreProvider))}) == (
        "plugin 'x' (in-process): yoban_object_stores returned the class ObjectStoreProvider; "
        "return instances of yoban.plugins.ObjectStoreProvider"
    )


def test_a_wrong_form_names_each_finding() -> None:
    from yoban.plugins import ObjectStoreProvider

    class Wrong(ObjectStoreProvider):
        name = "Wrong Name"
        title = "wrong"

        async def check(self, config: object) -> None: ...  # type: ignore[override]
        def open(self, config: object) -> Any: ...

    assert refused({"x": plugin(yoban_object_stores=stores(Wrong()))}) == (
        "plugin 'x' (in-process): Wrong.name is 'Wrong Name'; Wrong.check must not be 'async def'; "
        "use 1 to 30 lower case letters, digits and '-', beginning with a letter and not ending with '-'; "
        "write 'def': it is pure"
    )


def test_an_unknown_name_is_told_from_a_disabled_one(install: Install, entries: Entries) -> None:
    install("shelf", STORE.format(name="shelf"))
    install("hidden", STORE.format(name="hidden"))
    with pytest.raises(InvalidInput) as unknown:
        Registry.load(["shelf"], entries=entries()).store_provider("nope")
    assert unknown.value.reason == "ProviderUnknown"
    assert str(unknown.value) == (
        "object store 'nope': no enabled plugin supplies it (disabled plugins that may: hidden); "
        "use one of: shelf; or install a plugin that supplies it"
    )
    with pytest.raises(Unsupported) as left_out:
        Registry.load(["shelf"], entries=entries()).store_provider("hidden")
    assert left_out.value.reason == "PluginDisabled"
    assert str(left_out.value) == (
        "object store 'hidden': plugin 'hidden' (yoban-hidden 1.2.3) is installed but not listed in YOBAN_PLUGINS; "
        "add 'hidden' to YOBAN_PLUGINS"
    )
    with pytest.raises(Unsupported) as disabled:
        Registry.load([], ["hidden"], entries=entries()).store_provider("hidden")
    assert str(disabled.value).endswith("disabled by YOBAN_PLUGINS_DISABLED; remove it from YOBAN_PLUGINS_DISABLED")


def test_an_engine_that_is_not_yet_implemented_says_so() -> None:
    registry = Registry.in_process({"later": plugin(YOBAN_PLUGIN_STATUS="not yet implemented")})
    (row,) = registry.table()
    assert (row.name, row.kind, row.enabled, row.note) == ("later", "-", False, "not yet implemented")
    with pytest.raises(Unsupported) as caught:
        registry.engine("later")
    assert caught.value.reason == "NotImplemented"
    assert str(caught.value) == (
        "engine 'later': plugin 'later' (in-process) supplies no engine of that name (not yet implemented); "
        "use one of: none enabled"
    )
    with pytest.raises(InvalidInput) as unknown:
        registry.engine("other")
    assert unknown.value.reason == "EngineUnknown"


def test_names_in_an_environment_variable() -> None:
    assert names("") == ()
    assert names("a, b,,c d\n") == ("a", "b", "c", "d")


def test_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry.from_environment({"YOBAN_PLUGINS": "mysql"})
    rows = {row.name: row for row in registry.table()}
    assert (rows["mysql"].enabled, rows["mysql"].note) == (True, "")
    assert rows["s3"].note == "not listed in YOBAN_PLUGINS"
    monkeypatch.setenv("YOBAN_PLUGINS", "mysql")
    monkeypatch.setenv("YOBAN_PLUGINS_DISABLED", "mysql")
    assert {row.note for row in Registry.from_environment().table() if row.name == "mysql"} == {
        "disabled by YOBAN_PLUGINS_DISABLED"
    }
