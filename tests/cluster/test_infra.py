"""What clusters are given: written from one source, of the shape its readers want, and without loose ends."""

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema
from tests.support.bundles import tiny_bundle
from typer.main import get_command

from raydiance.cli.app import app
from raydiance.config import project_folder
from raydiance.errors import ConfigError
from raydiance.storage import Store

INFRA = project_folder() / "infra"
VALUES = yaml.safe_load((INFRA / "values.yaml").read_text())
RENDERED = INFRA / "rendered"

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}


def record(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


def mapping(value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": value}


SIZE = record({"cpu": TEXT, "memory": {"type": "string", "pattern": "^[0-9]+Gi$"}}, {"nvidia.com/gpu": COUNT})
CONTAINER = record(
    {
        "name": TEXT,
        "image": TEXT,
        "resources": record({"requests": SIZE, "limits": SIZE}),
        "env": listed(record({"name": TEXT, "value": TEXT})),
        "envFrom": listed(record({"secretRef": record({"name": TEXT})})),
        "securityContext": record(
            {
                "runAsNonRoot": {"const": True},
                "allowPrivilegeEscalation": {"const": False},
                "capabilities": record({"drop": {"const": ["ALL"]}}),
            }
        ),
    },
    {"ports": listed(record({"name": TEXT, "containerPort": COUNT}))},
)
TOLERATION = record({"key": TEXT, "operator": {"enum": ["Exists", "Equal"]}, "effect": TEXT}, {"value": TEXT})
POD = record(
    {"containers": listed(CONTAINER)},
    {
        "terminationGracePeriodSeconds": COUNT,
        "nodeSelector": mapping(TEXT),
        "tolerations": listed(TOLERATION),
    },
)
TEMPLATE = record({"spec": POD})
START = mapping({"type": "string"})
CLUSTER = record(
    {
        "rayVersion": TEXT,
        "authOptions": record({"mode": {"const": "token"}, "secretName": TEXT}),
        "enableInTreeAutoscaling": {"const": True},
        "autoscalerOptions": record({"version": {"enum": ["v1", "v2"]}, "idleTimeoutSeconds": COUNT}),
        "gcsFaultToleranceOptions": record(
            {
                "redisAddress": TEXT,
                "redisPassword": record(
                    {"valueFrom": record({"secretKeyRef": record({"name": TEXT, "key": TEXT})})}
                ),
            }
        ),
        "headGroupSpec": record({"rayStartParams": START, "template": TEMPLATE}),
        "workerGroupSpecs": listed(
            record(
                {
                    "groupName": TEXT,
                    "replicas": COUNT,
                    "minReplicas": COUNT,
                    "maxReplicas": COUNT,
                    "idleTimeoutSeconds": COUNT,
                    "rayStartParams": START,
                    "template": TEMPLATE,
                }
            )
        ),
    }
)
SPECS = {
    "raycluster": CLUSTER,
    "rayjob": record(
        {
            "entrypoint": TEXT,
            "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
            "backoffLimit": COUNT,
            "activeDeadlineSeconds": COUNT,
            "shutdownAfterJobFinishes": {"type": "boolean"},
            "ttlSecondsAfterFinished": COUNT,
            "rayClusterSpec": CLUSTER,
        }
    ),
    "rayservice": record(
        {
            "serveConfigV2": TEXT,
            "upgradeStrategy": record(
                {"type": {"enum": ["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]}}
            ),
            "excludeHeadPodFromServeSvc": {"type": "boolean"},
            "rayClusterConfig": CLUSTER,
        }
    ),
}


def load(name: str) -> Any:
    return yaml.safe_load((RENDERED / name).read_text())


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a value."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, INFRA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_lies_there_is_what_the_values_say() -> None:
    expected = program("render").rendered()
    assert {path for path in RENDERED.rglob("*") if path.is_file()} == set(expected)
    for path, text in expected.items():
        assert path.read_text() == text, f"{path.name}: run python infra/render.py"


@pytest.mark.parametrize("kind", SPECS)
def test_kuberay_resources_have_the_fields_it_knows(kind: str) -> None:
    schema = record(
        {
            "apiVersion": {"const": "ray.io/v1"},
            "kind": {"enum": ["RayCluster", "RayJob", "RayService"]},
            "metadata": record({"name": TEXT, "namespace": TEXT, "labels": mapping(TEXT)}),
            "spec": SPECS[kind],
        }
    )
    found = load(f"kuberay/{kind}.yaml")
    jsonschema.validate(found, schema)
    assert found["kind"].lower() == kind
    for group in (each for each in walk(found) if "groupName" in each):
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for container in (each for each in walk(found) if "resources" in each):
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["image"].endswith("-gpu") == ("nvidia.com/gpu" in container["resources"]["limits"])


def test_the_schema_sees_a_field_that_is_not_known() -> None:
    wrong = load("kuberay/raycluster.yaml")["spec"]
    wrong["authOption"] = wrong.pop("authOptions")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, CLUSTER)


@pytest.mark.parametrize("kind", SPECS)
def test_every_secret_that_is_asked_for_is_described(kind: str) -> None:
    readme = (INFRA / "README.md").read_text()
    for each in walk(load(f"kuberay/{kind}.yaml")):
        if "secretKeyRef" in each:
            assert each["secretKeyRef"]["key"] in VALUES["secrets"][each["secretKeyRef"]["name"]]
        if "secretRef" in each:
            assert each["secretRef"]["name"] in VALUES["secrets"]
        if "secretName" in each:
            assert each["secretName"] in VALUES["secrets"]
    for name, variables in VALUES["secrets"].items():
        for variable in variables:
            assert re.search(rf"secret generic {name} .*--from-literal={variable}=", readme), (name, variable)


def test_ray_here_and_there_is_the_same_ray() -> None:
    assert VALUES["ray_version"] == ray.__version__
    assert load("kuberay/raycluster.yaml")["spec"]["rayVersion"] == ray.__version__


def test_the_job_is_a_command_that_exists() -> None:
    command, verb, *arguments = shlex.split(load("kuberay/rayjob.yaml")["spec"]["entrypoint"])
    assert command == "raydiance"
    assert verb in get_command(app).commands  # type: ignore[attr-defined]
    assert (project_folder() / "jobs" / f"{arguments[0]}.py").exists()


def strict(schema: Any) -> Any:
    """The schema with every object closed: Ray itself passes over what it does not know."""
    for each in walk(schema):
        if "properties" in each:
            each["additionalProperties"] = False
    return schema


def test_serve_reads_every_field_and_finds_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load(load("kuberay/rayservice.yaml")["spec"]["serveConfigV2"])
    schema = strict(ServeDeploySchema.model_json_schema())
    jsonschema.validate(config, schema)
    ServeDeploySchema.model_validate(config)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "max_surge_pct": 1}, schema)
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    build = getattr(importlib.import_module(module), name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYDIANCE_STORE", "store")
    artifact = tiny_bundle(Store.open())
    with pytest.raises(ConfigError, match="API key"):
        build({"bundle": artifact.ref.key})
    monkeypatch.setenv("RAYDIANCE_API_KEYS", "abcdefgh")
    assert isinstance(build({**application["args"], "bundle": artifact.ref.key}), Application)
    with pytest.raises(ConfigError, match=r"args.replica: ServeSpec has no such field"):
        build({"replica": 2})


def test_ray_up_reads_the_machines() -> None:
    machines = load("machines.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(machines, schema)
    assert machines["head_node_type"] in machines["available_node_types"]
    spot = {
        name
        for name, each in machines["available_node_types"].items()
        if "InstanceMarketOptions" in str(each)
    }
    assert spot == {name for name, worker in VALUES["workers"].items() if worker["spot"]}
    assert all(
        "RAY_AUTH_MODE=token" in line
        for key in machines
        if key.endswith("ray_commands")
        for line in machines[key]
    )


def test_compose_shows_itself_to_loopback_only_and_starts_nothing_without_passwords() -> None:
    found = load("compose.yaml")
    services = found["services"]
    for name, service in services.items():
        assert re.search(r":[\w.-]*\d[\w.-]*$", service["image"]), f"{name}: a version, not the latest"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert set(service.get("depends_on", [])) <= services.keys()
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (RENDERED / source).exists() if source.startswith("./") else source in found["volumes"]
    secrets = re.findall(
        r"\w*(?:PASSWORD|TOKEN|SECRET_ACCESS_KEY|SECRET_KEY): (.*)", (RENDERED / "compose.yaml").read_text()
    )
    assert len(secrets) >= 8
    assert all(":?set it in .env}" in value for value in secrets)
    assert "basic-auth" in services["mlflow"]["command"]
    assert services["head"]["environment"]["RAY_AUTH_MODE"] == "token"


def test_the_image_is_made_of_what_is_here_without_dvc() -> None:
    lines = (INFRA / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in shlex.split(line)[1:-1]:
                assert (project_folder() / source).exists(), line
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]
    wanted = {Requirement(line) for line in program("worker_requirements").requirements(project_folder())}
    names = {each.name for each in wanted}
    assert "dvc" not in names
    assert {"ray", "mlflow", "torch", "safetensors"} <= names
    lock = {
        canonicalize_name(Requirement(line).name): Requirement(line)
        for line in (project_folder() / "requirements.lock").read_text().splitlines()
        if line and not line.startswith("#")
    }
    for each in wanted:
        (pin,) = lock[canonicalize_name(each.name)].specifier
        assert each.specifier.contains(pin.version), f"{each} but {pin}"


def test_grafana_asks_for_metrics_that_ray_has() -> None:
    sources = "".join(
        path.read_text()
        for folder in ("dashboard/modules", "serve/_private")
        for path in (Path(ray.__file__).parent / folder).rglob("*.py")
    )
    board = json.loads((RENDERED / "monitoring" / "dashboard.json").read_text())
    for panel in board["panels"]:
        (name,) = re.findall(r"ray_\w+", panel["targets"][0]["expr"])
        assert re.search(rf"\b(ray_)?{re.sub('^ray_|_total$|_bucket$', '', name)}\b", sources), name
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)


def test_the_renderer_can_only_compare(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["render.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        program("render").main()
    assert ended.value.code == 0
