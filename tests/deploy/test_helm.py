"""The Helm chart: what stands in it, and, where Helm's own library is installed, what Helm and Kubernetes say of it.

`.ci/run` installs both (helm-python-sdk has Helm in it, kubernetes-validate the schemas); no cluster is asked.
"""

import importlib.util
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from collegium.__main__ import load

ROOT = Path(__file__).parents[2]
CHART = ROOT / "docs" / "deploy" / "helm" / "collegium"
KUBERNETES = "1.34"
COORDINATOR = {"enabled": True, "hosts": ["fl.example.org", "10.0.0.1"], "institutions": ["hospital", "bank"]}
INSTITUTION = {
    "enabled": True,
    "invitationSecret": "invitation",
    "recordsClaim": "records",
    "config": 'name = "hospital"\n\n[data.codes]\ntrain = "/srv/collegium/codes.jsonl"\n',
}
BOTH = {"coordinator": COORDINATOR, "institution": INSTITUTION}
needs_helm = pytest.mark.skipif(
    importlib.util.find_spec("helm_python") is None or importlib.util.find_spec("kubernetes_validate") is None,
    reason="helm-python-sdk and kubernetes-validate are not installed",
)


def rendered(values: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects by kind and name, as Helm renders them."""
    helm_python = import_module("helm_python")

    texts = helm_python.Chart.load(str(CHART)).render(values, name="c")
    objects = [each for name, text in texts.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text)]
    return {(each["kind"], each["metadata"]["name"]): each for each in objects if each}


@pytest.fixture
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """Both sides."""
    return rendered(BOTH)


@pytest.mark.extra
@needs_helm
def test_helm_finds_nothing() -> None:
    helm_python = import_module("helm_python")

    for values in ({}, {"coordinator": COORDINATOR}, {"institution": INSTITUTION}, BOTH):
        report = helm_python.lint(str(CHART), values, strict=True)
        assert not report["errors"]
        assert [each for each in report["messages"] if each["severity"] > 1] == []


@pytest.mark.extra
@needs_helm
def test_kubernetes_accepts_what_it_renders(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    kubernetes_validate = import_module("kubernetes_validate")

    kinds = sorted(kind for kind, _ in objects)
    assert kinds == ["ConfigMap", "NetworkPolicy", "NetworkPolicy", "Service", "StatefulSet", "StatefulSet"]
    for each in objects.values():
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    assert rendered({}) == {}, "nothing runs that was not asked for"
    broken = objects["StatefulSet", "c-coordinator"] | {"spec": {"replicas": "one"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


@pytest.mark.extra
@needs_helm
def test_pods_may_do_little_and_records_are_only_read(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    for name in ("c-coordinator", "c-institution"):
        pod = objects["StatefulSet", name]["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch", "else keys get a group's mode"
        for container in (*pod["initContainers"], *pod["containers"]):
            limits = container["securityContext"]
            assert limits["readOnlyRootFilesystem"] is True
            assert limits["allowPrivilegeEscalation"] is False
            assert limits["capabilities"] == {"drop": ["ALL"]}
        (main,) = pod["containers"]
        group, verb, _ = main["args"]
        assert verb in getattr(load(group), "commands")  # noqa: B009
    mounts = {each["name"]: each for each in main["volumeMounts"]}
    assert mounts["records"]["readOnly"] is True
    assert "invitation" not in mounts, "the daemon has no part in it"


@pytest.mark.extra
@needs_helm
def test_the_doors_are_reached_and_nothing_else_is(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    coordinator = objects["StatefulSet", "c-coordinator"]["spec"]["template"]
    named = {each["name"]: each["containerPort"] for each in coordinator["spec"]["containers"][0]["ports"]}
    service = objects["Service", "c-coordinator"]["spec"]
    assert {each["port"]: named[each["targetPort"]] for each in service["ports"]} == {8443: 8443, 8445: 8445}
    assert service["selector"].items() <= coordinator["metadata"]["labels"].items()
    allowed = objects["NetworkPolicy", "c-coordinator"]["spec"]["ingress"][0]["ports"]
    assert {each["port"] for each in allowed} == set(named)
    assert "ingress" not in objects["NetworkPolicy", "c-institution"]["spec"]
    probe = coordinator["spec"]["containers"][0]["readinessProbe"]["httpGet"]
    assert probe == {"path": "/health", "port": "public", "scheme": "HTTPS"}


@pytest.mark.extra
@needs_helm
def test_what_is_given_stands_in_the_pods(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    (init,) = objects["StatefulSet", "c-coordinator"]["spec"]["template"]["spec"]["initContainers"]
    options = [f"--host={name}" for name in ("fl.example.org", "10.0.0.1")]
    assert init["args"][1:] == [
        "/var/lib/collegium/coordinator",
        "--port=8443",
        "--enrolment-port=8445",
        *options,
        "--institution=hospital",
        "--institution=bank",
    ]
    assert (
        objects["ConfigMap", "c-institution"]["data"]["institution.toml"].strip() == str(INSTITUTION["config"]).strip()
    )
    env = [{"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "store", "key": "password"}}}]
    more = rendered({"coordinator": COORDINATOR | {"env": env}})["StatefulSet", "c-coordinator"]
    assert more["spec"]["template"]["spec"]["containers"][0]["env"] == env


@pytest.mark.extra
@needs_helm
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"coordinator": {"enabled": True}}, "/coordinator/hosts"),
        ({"institution": {"enabled": True}}, "/institution/invitationSecret"),
        ({"coordinator": {"host": ["x"]}}, "host"),
        ({"coordinator": {"publicPort": 80}}, "/coordinator/publicPort"),
    ],
)
def test_what_is_missing_or_wrong_is_named(values: dict[str, Any], words: str) -> None:
    helm_python = import_module("helm_python")

    with pytest.raises(helm_python.HelmError, match=re.escape(words)):
        helm_python.Chart.load(str(CHART)).validate_schema(values)


def test_chart_and_values_are_of_this_release() -> None:
    """What can be said without Helm."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    found = re.search('^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert found
    assert chart["appVersion"] == chart["version"] == found[1]
    values, schema = (
        yaml.safe_load((CHART / "values.yaml").read_text()),
        json.loads((CHART / "values.schema.json").read_text()),
    )
    assert values.keys() <= schema["properties"].keys()
    for name in ("coordinator", "institution", "image", "networkPolicy"):
        assert values[name].keys() <= schema["properties"][name]["properties"].keys()
    assert values["coordinator"]["enabled"] is values["institution"]["enabled"] is False
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    assert templates.count("{{") == templates.count("}}")
    for verb in ("server init", "client join"):
        group, name = verb.split()
        assert f"collegium {verb}" in templates
        assert name in getattr(load(group), "commands")  # noqa: B009
