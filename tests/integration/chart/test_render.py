"""What each documented value of the chart does, rendered by helm."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.server

CHART = Path(__file__).parents[3] / "deploy" / "chart"
Objects = list[dict[str, Any]]
Render = Callable[..., Objects]


def of(objects: Objects, kind: str, name: str = "") -> dict[str, Any]:
    found = [one for one in objects if one["kind"] == kind and name in one["metadata"]["name"]]
    assert len(found) == 1, [one["metadata"]["name"] for one in objects if one["kind"] == kind]
    return found[0]


def kinds(objects: Objects) -> set[str]:
    return {one["kind"] for one in objects}


def pod(objects: Objects) -> dict[str, Any]:
    return dict(of(objects, "Deployment")["spec"]["template"]["spec"])


def container(objects: Objects) -> dict[str, Any]:
    return dict(pod(objects)["containers"][0])


def env(objects: Objects) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container(objects)["env"]}


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in ("resources",):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def test_every_value_is_rendered_by_a_test_here() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    source = Path(__file__).read_text()
    untested = [leaf for leaf in leaves(values) if f'"{leaf.split(".")[-1]}"' not in source]
    assert untested == []


def test_every_value_has_a_comment() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines[1:], 1):
        key = re.match(r"( *)(\w+):(.*)", line)
        before = lines[number - 1].strip()
        if key and (key[3].strip() or not lines[number + 1].startswith(" ")):
            inside = (key[1] == "  " and number > 0 and "requests" in line) or "limits" in line
            grouped = not before.startswith("#") and re.match(r"\w+:", before)
            assert before.startswith("#") or inside or grouped, f"values.yaml:{number + 1} has no comment: {line}"


def test_lint(helm: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 3},
        {"image": {"pullPolicy": "Sometimes"}},
        {"plugins": "postgres"},
        {"namespaces": ["Not_A_Name"]},
        {"logging": {"level": "loud"}},
        {"telemetry": {"otlpEndpoint": "collector:4318"}},
        {"settings": {"YOBAN_WORKERS": 1}},
        {"podMonitor": {"interval": "often"}},
    ],
)
def test_wrong_values_are_rejected(helm: Callable[..., subprocess.CompletedProcess[str]], values: Any) -> None:
    done = helm("template", "yoban", str(CHART), values=values)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


def test_image(render: Render) -> None:
    objects = render(image={"repository": "registry.example/yoban", "tag": "9", "pullPolicy": "Always"})
    assert container(objects)["image"] == env(objects)["YOBAN_IMAGE"] == "registry.example/yoban:9"
    assert container(objects)["imagePullPolicy"] == "Always"
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert container(render())["image"] == f"yoban:{version}"
    assert pod(render({"imagePullSecrets": ["a", "b"]}))["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


def test_replicas(render: Render) -> None:
    assert of(render(), "Deployment")["spec"]["replicas"] == 2
    assert of(render({"replicas": 3}), "Deployment")["spec"]["replicas"] == 3


def test_plugins(render: Render) -> None:
    assert env(render())["YOBAN_PLUGINS"] == "postgres,mysql,s3"
    objects = render({"plugins": [], "pluginsDisabled": ["mysql", "x"]})
    assert "YOBAN_PLUGINS" not in env(objects)
    assert env(objects)["YOBAN_PLUGINS_DISABLED"] == "mysql,x"


def test_namespaces_means_roles_only(render: Render) -> None:
    objects = render({"namespaces": ["a", "b"]})
    assert env(objects)["YOBAN_NAMESPACES"] == "a,b"
    assert kinds(objects) & {"ClusterRole", "ClusterRoleBinding"} == set()
    places = {one["metadata"]["namespace"] for one in objects if one["kind"] == "Role"}
    assert places == {"a", "b", "yoban-system"}
    rules = next(one["rules"] for one in objects if one["kind"] == "Role" and one["metadata"]["namespace"] == "a")
    cluster = next(
        one for one in render() if one["kind"] == "ClusterRole" and one["metadata"]["name"] == "yoban-operator"
    )
    assert cluster["rules"] == rules
    policy = of(objects, "ValidatingAdmissionPolicy")["spec"]["matchConstraints"]
    assert policy["namespaceSelector"]["matchExpressions"][0]["values"] == ["a", "b"]


def test_bug_names_of_digits_made_a_deployment_that_is_refused(render: Render) -> None:
    objects = render(
        {"namespaces": ["123"], "plugins": ["1"], "pluginsDisabled": ["2"], "imagePullSecrets": ["3"]},
        priorityClassName="4",
    )
    plain = {name: value for name, value in env(objects).items() if not isinstance(value, dict)}
    assert plain["YOBAN_NAMESPACES"] == "123"
    assert (plain["YOBAN_PLUGINS"], plain["YOBAN_PLUGINS_DISABLED"]) == ("1", "2")
    assert all(isinstance(value, str) for value in plain.values())
    assert pod(objects)["imagePullSecrets"] == [{"name": "3"}]
    assert pod(objects)["priorityClassName"] == "4"
    places = {one["metadata"]["namespace"] for one in objects if one["kind"] in ("Role", "RoleBinding")}
    assert places == {"123", "yoban-system"}


def test_bug_the_pull_policy_never_reached_the_init_containers_of_agents(render: Render) -> None:
    from yoban.reconcilers.database.controller import operator_facts
    from yoban.runtime.settings import Settings

    variables = env(render(image={"repository": "yoban", "pullPolicy": "Always"}))
    settings = Settings(**{name: variables[f"YOBAN_{name.upper()}"] for name in ("image", "image_pull_policy")})
    assert operator_facts(settings, {}).runtime.pull_policy == "Always"


def test_no_rule_has_a_wildcard(render: Render) -> None:
    for one in [*render(), *render({"namespaces": ["a"]})]:
        if one["kind"] in ("Role", "ClusterRole") and not one["metadata"]["name"].endswith("-view"):
            for rule in one["rules"]:
                assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]


def test_logging(render: Render) -> None:
    objects = render(logging={"level": "debug", "format": "text"})
    assert (env(objects)["YOBAN_LOG_LEVEL"], env(objects)["YOBAN_LOG_FORMAT"]) == ("debug", "text")


def test_telemetry(render: Render) -> None:
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in env(render())
    assert env(render(telemetry={"otlpEndpoint": "http://c:4318"}))["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://c:4318"


def test_settings(render: Render) -> None:
    from yoban.runtime.settings import Settings

    assert "ConfigMap" not in kinds(render())
    objects = render({"settings": {"workers": 16, "stop_timeout": 20}})
    settings = yaml.safe_load(of(objects, "ConfigMap")["data"]["settings.yaml"])
    assert settings == {"workers": 16, "stop_timeout": 20}
    assert set(settings) <= set(Settings.model_fields)
    assert {"name": "settings", "mountPath": "/etc/yoban", "readOnly": True} in container(objects)["volumeMounts"]
    before = of(render(), "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
    after = of(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
    assert before != after


def test_every_variable_of_ours_is_a_setting(render: Render) -> None:
    from yoban.runtime.settings import Settings

    everything = render({"pluginsDisabled": ["x"], "namespaces": ["a"]})
    ours = {name.removeprefix("YOBAN_").lower() for name in env(everything) if name.startswith("YOBAN_")}
    assert ours <= set(Settings.model_fields)


def test_extra_environment(render: Render) -> None:
    assert env(render({"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://p"}]}))["HTTPS_PROXY"] == "http://p"


def test_crds(render: Render) -> None:
    found = [one for one in render() if one["kind"] == "CustomResourceDefinition"]
    assert len(found) == 4
    for one in found:
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        generated = yaml.safe_load(
            (CHART.parent / "crds" / f"yoban.dev_{one['spec']['names']['plural']}.yaml").read_text()
        )
        assert one["spec"] == generated["spec"]
    assert "CustomResourceDefinition" not in kinds(render(crds={"install": False}))


def test_rbac(render: Render) -> None:
    names = {one["metadata"]["name"] for one in render() if one["kind"] == "ClusterRole"}
    assert names == {"yoban-operator", "yoban-operator-view", "yoban-operator-edit"}
    names = {one["metadata"]["name"] for one in render(rbac={"aggregate": False}) if one["kind"] == "ClusterRole"}
    assert names == {"yoban-operator"}
    without = kinds(render(rbac={"create": False}))
    assert without & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"} == set()
    assert "ServiceAccount" in without


def test_service_account(render: Render) -> None:
    objects = render(serviceAccount={"annotations": {"cloud/role": "r"}})
    assert of(objects, "ServiceAccount")["metadata"]["annotations"] == {"cloud/role": "r"}
    assert pod(objects)["serviceAccountName"] == of(objects, "ServiceAccount")["metadata"]["name"]


def test_agent_policy(render: Render) -> None:
    assert "ValidatingAdmissionPolicy" in kinds(render())
    assert "ValidatingAdmissionPolicy" not in kinds(render(agentPolicy={"enabled": False}))
    assert "ValidatingAdmissionPolicy" not in kinds(render(kube_version="1.29.3"))


def test_network_policy(render: Render) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    policy = of(render(networkPolicy={"metricsFrom": peers}), "NetworkPolicy")
    assert policy["spec"]["ingress"] == [
        {"ports": [{"protocol": "TCP", "port": "health"}]},
        {"ports": [{"protocol": "TCP", "port": "metrics"}], "from": peers},
    ]
    assert "NetworkPolicy" not in kinds(render(networkPolicy={"enabled": False}))


def test_pod_monitor(render: Render) -> None:
    assert "PodMonitor" not in kinds(render())
    objects = render(podMonitor={"enabled": True, "interval": "15s", "labels": {"release": "p"}})
    monitors = [one for one in objects if one["kind"] == "PodMonitor"]
    assert len(monitors) == 2
    for one in monitors:
        assert one["metadata"]["labels"]["release"] == "p"
        assert one["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "interval": "15s"}]
    assert monitors[1]["spec"]["namespaceSelector"] == {"any": True}
    objects = render({"namespaces": ["a"]}, podMonitor={"enabled": True})
    assert of(objects, "PodMonitor", "instances")["spec"]["namespaceSelector"] == {"matchNames": ["a"]}


def test_pod_disruption_budget(render: Render) -> None:
    assert of(render(), "PodDisruptionBudget")["spec"]["minAvailable"] == 1
    assert "PodDisruptionBudget" not in kinds(render(podDisruptionBudget={"enabled": False}))
    assert "PodDisruptionBudget" not in kinds(render({"replicas": 1}))


def test_placement_and_resources(render: Render) -> None:
    given: dict[str, Any] = {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
    }
    found = pod(render(given))
    assert {key: found[key] for key in given} == given
    wanted = {"limits": {"memory": "1Gi"}}
    assert container(render({"resources": {"requests": None, **wanted}}))["resources"] == wanted
    template = of(render({"podLabels": {"team": "db"}, "podAnnotations": {"note": "x"}}), "Deployment")["spec"][
        "template"
    ]
    assert template["metadata"]["labels"]["team"] == "db"
    assert template["metadata"]["annotations"]["note"] == "x"


def test_labels_are_those_that_others_select_by(render: Render) -> None:
    from yoban.cli.trace import OPERATOR_LABELS, OPERATOR_PORT
    from yoban.reconcilers.database.builders.networkpolicy import OPERATOR_SELECTOR

    objects = render()
    labels = of(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert OPERATOR_SELECTOR.items() <= labels.items()
    assert dict(pair.split("=") for pair in OPERATOR_LABELS.split(",")).items() <= labels.items()
    ports = {one["name"]: one["containerPort"] for one in container(objects)["ports"]}
    assert ports["metrics"] == OPERATOR_PORT


def test_ports_are_those_of_the_settings(render: Render) -> None:
    from yoban.runtime.settings import Settings

    ports = {one["name"]: one["containerPort"] for one in container(render())["ports"]}
    assert ports == {
        "metrics": Settings.model_fields["metrics_port"].default,
        "health": Settings.model_fields["health_port"].default,
    }


def test_the_release_name_is_in_every_name(render: Render) -> None:
    for release, name in (("yoban", "yoban-operator"), ("my-yoban", "my-yoban-operator"), ("db", "db-yoban-operator")):
        assert of(render(release=release), "Deployment")["metadata"]["name"] == name
