"""Writes what clusters need out of values.yaml: `python infra/render.py`; with --check it only compares."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
Values = dict[str, Any]
HEADER = "# Written by `python infra/render.py` from infra/values.yaml.\n"


def environment(values: Values) -> dict[str, str]:
    """Where everything is; who we are comes from secrets."""
    return {
        "RAYDIANCE_ADDRESS": "auto",
        "RAYDIANCE_STORE": values["store"],
        "RAYDIANCE_TRACKING": values["tracking"],
        "AWS_ENDPOINT_URL": values["s3_endpoint"],
        "AWS_REGION": values["s3_region"],
        # Serve's proxies refuse what is too large before it is read
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raydiance.serving.limits:proxy_middlewares",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",  # for the last checkpoint of a job that is asked to stop
    }


def container(values: Values, name: str, cpu: int, memory_gib: int, gpus: int = 0) -> Values:
    """One container of a pod: what it asks for is what it gets, and it runs as nobody in particular."""
    size: Values = {"cpu": str(cpu), "memory": f"{memory_gib}Gi"} | ({"nvidia.com/gpu": gpus} if gpus else {})
    secrets = ("raydiance-s3", "raydiance-mlflow", "raydiance-api")
    return {
        "name": name,
        "image": f"{values['image']}:{values['tag']}" + ("-gpu" if gpus else ""),
        "resources": {"requests": dict(size), "limits": dict(size)},
        "env": [{"name": key, "value": value} for key, value in environment(values).items()],
        "envFrom": [{"secretRef": {"name": secret}} for secret in secrets],
        "securityContext": {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def worker_group(values: Values, name: str, worker: Values) -> Values:
    """Workers of one kind; those on spot machines go where such machines are, and tolerate being there."""
    pod: Values = {
        "containers": [container(values, "ray-worker", worker["cpu"], worker["memory_gib"], worker["gpus"])],
        "terminationGracePeriodSeconds": 120,
    }
    if worker["spot"]:
        pod["nodeSelector"] = {"raydiance/spot": "true"}
        pod["tolerations"] = [{"key": "raydiance/spot", "operator": "Exists", "effect": "NoSchedule"}]
    return {
        "groupName": name,
        "replicas": worker["least"],
        "minReplicas": worker["least"],
        "maxReplicas": worker["most"],
        "idleTimeoutSeconds": values["idle_timeout_s"],
        "rayStartParams": {},
        "template": {"spec": pod},
    }


def cluster_spec(values: Values) -> Values:
    """What a RayCluster, a RayJob and a RayService have in common. The head runs no tasks and is on no spot
    machine: drivers live there.
    """
    head = container(values, "ray-head", values["head"]["cpu"], values["head"]["memory_gib"])
    head["ports"] = [
        {"name": name, "containerPort": port}
        for name, port in (("gcs", 6379), ("dashboard", 8265), ("metrics", 8080), ("serve", 8000))
    ]
    secret = {"valueFrom": {"secretKeyRef": {"name": "raydiance-redis", "key": "password"}}}
    return {
        "rayVersion": values["ray_version"],
        "authOptions": {"mode": "token", "secretName": "raydiance-ray-token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": values["idle_timeout_s"]},
        "gcsFaultToleranceOptions": {"redisAddress": values["redis"], "redisPassword": secret},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": {"spec": {"containers": [head]}},
        },
        "workerGroupSpecs": [
            worker_group(values, name, worker) for name, worker in values["workers"].items()
        ],
    }


def resource(values: Values, kind: str, name: str, spec: Values) -> Values:
    metadata = {"name": name, "namespace": values["name"], "labels": {"app": values["name"]}}
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def ray_cluster(values: Values) -> Values:
    """A cluster that stays, for `raydiance submit`."""
    return resource(values, "RayCluster", values["name"], cluster_spec(values))


def ray_job(values: Values) -> Values:
    """A cluster for one job. It resumes by its name, so a new attempt loses no more than an interval."""
    spec = {
        "entrypoint": values["job"],
        "submissionMode": "K8sJobMode",
        "backoffLimit": 3,
        "activeDeadlineSeconds": 86_400,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": cluster_spec(values),
    }
    return resource(values, "RayJob", f"{values['name']}-job", spec)


def serve_config(values: Values) -> Values:
    """The endpoint as Ray Serve reads it. It listens to the cluster, so keys are asked for."""
    arguments = {"bundle": values["model"], "replicas": values["replicas"]}
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000, "request_timeout_s": 125.0},
        "applications": [
            {
                "name": values["name"],
                "route_prefix": "/",
                "import_path": "raydiance.serving.deployment:application",
                "args": arguments,
            }
        ],
    }


def ray_service(values: Values) -> Values:
    """The endpoint on a cluster of its own; a new version gets a new cluster and takes over when it answers."""
    spec = {
        "serveConfigV2": yaml.safe_dump(serve_config(values), sort_keys=False),
        "upgradeStrategy": {"type": "NewCluster"},
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": cluster_spec(values),
    }
    return resource(values, "RayService", f"{values['name']}-endpoint", spec)


def machines(values: Values) -> Values:
    """`ray up`: machines of a cloud, the head on demand, spot workers where values.yaml says so."""
    start = "RAY_AUTH_MODE=token ray start --block=false --disable-usage-stats"
    node_types: Values = {
        "head": {
            "node_config": {"InstanceType": values["head_machine"]},
            "resources": {"CPU": 0},
            "min_workers": 0,
            "max_workers": 0,
        }
    }
    for name, worker in values["workers"].items():
        config: Values = {"InstanceType": worker["machine"]}
        if worker["spot"]:
            config["InstanceMarketOptions"] = {"MarketType": "spot"}
        gpus = {"GPU": worker["gpus"]} if worker["gpus"] else {}
        node_types[name] = {
            "node_config": config,
            "resources": {"CPU": worker["cpu"]} | gpus,
            "min_workers": worker["least"],
            "max_workers": worker["most"],
        }
    variables = [f"--env {name}={value}" for name, value in environment(values).items()]
    return {
        "cluster_name": values["name"],
        "max_workers": sum(worker["most"] for worker in values["workers"].values()),
        "idle_timeout_minutes": values["idle_timeout_s"] // 60,
        "provider": {"type": "aws", "region": values["region"]},
        "auth": {"ssh_user": "ubuntu"},
        "docker": {
            "image": f"{values['image']}:{values['tag']}-gpu",
            "container_name": values["name"],
            "run_options": [*variables, "--env-file /home/ubuntu/raydiance.env"],
        },
        "file_mounts": {"/home/ubuntu/raydiance.env": "./raydiance.env", "~/.ray/auth_token": "./auth_token"},
        "head_node_type": "head",
        "available_node_types": node_types,
        "head_start_ray_commands": [
            f"{start} --head --port=6379 --dashboard-host=127.0.0.1 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml"
        ],
        "worker_start_ray_commands": [f"{start} --address=$RAY_HEAD_IP:6379"],
    }


def needed(variable: str) -> str:
    """A variable of compose without which nothing starts."""
    return f"${{{variable}:?set it in .env}}"


def compose(values: Values) -> Values:
    """All servers on one machine in containers; only loopback sees them, and nothing starts without passwords."""
    image = f"{values['image']}:{values['tag']}"
    s3_keys = {name: needed(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    shared = {
        **environment(values),
        **s3_keys,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": needed("RAY_AUTH_TOKEN"),
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": needed("MLFLOW_AUTH_ADMIN_PASSWORD"),
    }
    keys = f"{s3_keys['AWS_ACCESS_KEY_ID']},{s3_keys['AWS_SECRET_ACCESS_KEY']}"
    database = f"postgresql://mlflow:{needed('POSTGRES_PASSWORD')}@postgres/mlflow"
    return {
        "name": values["name"],
        "services": {
            "postgres": {
                "image": "postgres:16",
                "environment": {
                    "POSTGRES_USER": "mlflow",
                    "POSTGRES_DB": "mlflow",
                    "POSTGRES_PASSWORD": needed("POSTGRES_PASSWORD"),
                },
                "volumes": ["database:/var/lib/postgresql/data"],
            },
            "s3": {
                "image": "rclone/rclone:1.71",
                "entrypoint": ["sh", "-c"],
                "command": ["mkdir -p /data/raydiance && exec rclone serve s3 /data --addr :9000"],
                "environment": {"RCLONE_AUTH_KEY": f'"{keys}"'},
                "ports": ["127.0.0.1:9000:9000"],
                "volumes": ["objects:/data"],
            },
            "mlflow": {
                "image": image,
                "command": [
                    *("mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--app-name", "basic-auth"),
                    *("--allowed-hosts", "mlflow:5000,localhost:5000,127.0.0.1:5000"),
                    *("--artifacts-destination", "s3://raydiance/mlflow"),
                ],
                "environment": {
                    **s3_keys,
                    "AWS_ENDPOINT_URL": values["s3_endpoint"],
                    "AWS_REGION": values["s3_region"],
                    "MLFLOW_BACKEND_STORE_URI": database,
                    "MLFLOW_AUTH_ADMIN_PASSWORD": needed("MLFLOW_AUTH_ADMIN_PASSWORD"),
                    "MLFLOW_FLASK_SERVER_SECRET_KEY": needed("MLFLOW_FLASK_SERVER_SECRET_KEY"),
                },
                "ports": ["127.0.0.1:5000:5000"],
                "depends_on": ["postgres", "s3"],
            },
            "head": {
                "image": image,
                "command": [
                    *("ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=0"),
                    *("--port=6379", "--dashboard-host=0.0.0.0", "--metrics-export-port=8080"),
                ],
                "environment": shared,
                "shm_size": "2gb",
                "ports": ["127.0.0.1:8265:8265", "127.0.0.1:8000:8000"],
                "depends_on": ["mlflow", "s3"],
            },
            "worker": {
                "image": image,
                "command": ["ray", "start", "--address=head:6379", "--block", "--disable-usage-stats"],
                "environment": shared,
                "shm_size": "2gb",
                "depends_on": ["head"],
            },
            **monitoring_services(),
        },
        "volumes": {"database": {}, "objects": {}},
    }


def monitoring_services() -> Values:
    """Prometheus and Grafana, with `docker compose --profile monitoring up`."""
    place = "/etc/grafana/provisioning"
    return {
        "prometheus": {
            "image": "prom/prometheus:v3.6.0",
            "profiles": ["monitoring"],
            "volumes": ["./monitoring/prometheus.yml:/etc/prometheus/prometheus.yml:ro"],
            "depends_on": ["head"],
        },
        "grafana": {
            "image": "grafana/grafana:12.2.0",
            "profiles": ["monitoring"],
            "environment": {"GF_SECURITY_ADMIN_PASSWORD": needed("GRAFANA_PASSWORD")},
            "ports": ["127.0.0.1:3000:3000"],
            "volumes": [
                f"./monitoring/datasource.yml:{place}/datasources/prometheus.yml:ro",
                f"./monitoring/dashboards.yml:{place}/dashboards/raydiance.yml:ro",
                "./monitoring/dashboard.json:/var/lib/grafana/dashboards/raydiance.json:ro",
            ],
            "depends_on": ["prometheus"],
        },
    }


def prometheus(values: Values) -> Values:
    """Who is asked for metrics, and how often."""
    jobs = {"ray": ["head:8080"]}
    return {
        "global": {"scrape_interval": "15s"},
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": targets}]} for name, targets in jobs.items()
        ],
    }


def datasource(values: Values) -> Values:
    source = {"name": "Prometheus", "type": "prometheus", "url": "http://prometheus:9090", "isDefault": True}
    return {"apiVersion": 1, "datasources": [source]}


def dashboards(values: Values) -> Values:
    provider = {"name": values["name"], "type": "file", "options": {"path": "/var/lib/grafana/dashboards"}}
    return {"apiVersion": 1, "providers": [provider]}


def dashboard(values: Values) -> Values:
    """Grafana's view of a cluster: two panels in a row."""
    panels = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": panel["title"],
            "datasource": {"type": "prometheus"},
            "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
            "fieldConfig": {"defaults": {"unit": panel["unit"]}, "overrides": []},
            "targets": [{"refId": "A", "expr": panel["ask"]}],
        }
        for number, panel in enumerate(values["panels"])
    ]
    return {
        "uid": values["name"],
        "title": "Raydiance",
        "schemaVersion": 39,
        "refresh": "15s",
        "panels": panels,
    }


FILES: dict[str, Callable[[Values], Values]] = {
    "compose.yaml": compose,
    "machines.yaml": machines,
    "monitoring/prometheus.yml": prometheus,
    "monitoring/datasource.yml": datasource,
    "monitoring/dashboards.yml": dashboards,
    "monitoring/dashboard.json": dashboard,
    "kuberay/raycluster.yaml": ray_cluster,
    "kuberay/rayjob.yaml": ray_job,
    "kuberay/rayservice.yaml": ray_service,
}


class _Dumper(yaml.SafeDumper):
    """No aliases, and longer texts as they are read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def rendered() -> dict[Path, str]:
    """Each file under rendered/ with its content."""
    values = yaml.safe_load((HERE / "values.yaml").read_text(encoding="utf-8"))
    return {HERE / "rendered" / name: _written(name, make(values)) for name, make in FILES.items()}


def _written(name: str, value: Values) -> str:
    if name.endswith(".json"):
        return json.dumps(value, indent=2) + "\n"
    return HEADER + yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110)


def main() -> None:
    stale = [path for path, text in rendered().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(map(str, stale))}; run python infra/render.py" if stale else 0)
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rendered()[path], encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
