"""RayCluster and RayJob of KubeRay (ray.io/v1, KubeRay 1.5.1 or newer), built as plain mappings."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import yaml

from cluster.manifests.settings import RAY_ENVIRONMENT, ManifestSettings, Shape, kubernetes_name, shape
from cluster.manifests.terms import terms
from cluster.submission import CONFIG_FILE, TERMS_FILE
from configs import Config, dump_config

Mapping = dict[str, Any]
_USER = 1000  # of the container recipe
_CONFIG_FOLDER = "/etc/headway"
_AGENT_PORT, _DASHBOARD_PORT, _GCS_PORT, _CLIENT_PORT = 52365, 8265, 6379, 10001
_HEAD_CPUS, _HEAD_MEMORY = 2, 8
_KEPT_SECONDS = 600
_END_SECONDS = 15


def ray_cluster(config: Config, settings: ManifestSettings) -> str:
    """A cluster that holds this run's workers and takes jobs by `headway submit`.

    Args:
        config: of the run; only its name and its cluster section count.
        settings: the rest.

    Returns:
        YAML.
    """
    name = kubernetes_name(config.run.name)
    made = _document("RayCluster", name, settings, _cluster(config, settings, mount=None))
    return _dump(made)


def ray_job(config: Config, settings: ManifestSettings) -> str:
    """A cluster that trains this run and goes away.

    Args:
        config: placed for the cluster (`cluster.reach.place`), without secrets.
        settings: the rest.

    Returns:
        YAML: a ConfigMap with the config, and the RayJob.
    """
    name = kubernetes_name(config.run.name)
    files = {CONFIG_FILE: dump_config(config), TERMS_FILE: terms()}
    content = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-config", "namespace": settings.namespace},
        "data": files,
    }
    spec: Mapping = {
        "entrypoint": f"cd {_CONFIG_FOLDER} && python -m cluster.arrival",
        "metadata": {"headway.run": config.run.name, "headway.config": config.hash},
        "submissionMode": "K8sJobMode",
        "backoffLimit": settings.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": _KEPT_SECONDS,
        "runtimeEnvYAML": yaml.safe_dump({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(settings.grace)}}),
        "submitterPodTemplate": {"spec": _submitter(settings)},
        "rayClusterSpec": _cluster(config, settings, mount=f"{name}-config"),
    }
    return _dump(content, _document("RayJob", name, settings, spec))


def _document(kind: str, name: str, settings: ManifestSettings, spec: Mapping) -> Mapping:
    labels = {"app.kubernetes.io/part-of": "headway"}
    about = {"name": name, "namespace": settings.namespace, "labels": labels}
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": about, "spec": spec}


def _cluster(config: Config, settings: ManifestSettings, mount: str | None) -> Mapping:
    found = shape(config, settings)
    spec: Mapping = {
        "rayVersion": metadata.version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": settings.autoscale,
        "headGroupSpec": _head(settings, mount),
        "workerGroupSpecs": _groups(config, settings, found),
    }
    if settings.autoscale:
        security = {"securityContext": _container_security()}
        spec["autoscalerOptions"] = {"upscalingMode": "Default", "idleTimeoutSeconds": 300, **security}
    if settings.redis:
        spec["gcsFaultToleranceOptions"] = {"redisAddress": settings.redis, **_redis_password(settings)}
    return spec


def _redis_password(settings: ManifestSettings) -> Mapping:
    if settings.redis_secret is None:
        return {}
    reference = {"name": settings.redis_secret, "key": "password"}
    return {"redisPassword": {"valueFrom": {"secretKeyRef": reference}}}


def _head(settings: ManifestSettings, mount: str | None) -> Mapping:
    ports = {"gcs-server": _GCS_PORT, "dashboard": _DASHBOARD_PORT, "client": _CLIENT_PORT}
    container = _container("ray-head", settings, _HEAD_CPUS, 0, _HEAD_MEMORY)
    container["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    container.update(_probes("/api/gcs_healthz", _DASHBOARD_PORT))
    pod = _pod(settings, container)
    if mount is not None:
        container["volumeMounts"].append({"name": "config", "mountPath": _CONFIG_FOLDER, "readOnly": True})
        pod["volumes"].append({"name": "config", "configMap": {"name": mount}})
    pod["automountServiceAccountToken"] = settings.autoscale  # the autoscaler beside the head speaks to Kubernetes
    # No processors to hand out: a worker there would take the cluster with it when it runs out of memory.
    start = {"dashboard-host": "0.0.0.0", "num-cpus": "0", "num-gpus": "0"}
    return {"serviceType": "ClusterIP", "rayStartParams": start, "template": {"spec": pod}}


def _groups(config: Config, settings: ManifestSettings, found: Shape) -> list[Mapping]:
    """The workers' machines, those of them that may go at any time, and others for data work."""
    kind = "gpu" if config.cluster.gpus_per_worker else "cpu"
    groups = []
    if found.nodes > settings.spot:
        groups.append(_group(kind, found.nodes - settings.spot, settings, found.cpus, found.gpus, found.memory))
    if settings.spot:
        groups.append(_group(f"{kind}-spot", settings.spot, settings, found.cpus, found.gpus, found.memory))
        _onto_spot(groups[-1]["template"]["spec"], settings)
    if settings.cpu_nodes:
        memory = round(settings.node_cpus * settings.worker_memory / 4)
        groups.append(_group("data", settings.cpu_nodes, settings, settings.node_cpus, 0, memory))
    return groups


def _group(name: str, nodes: int, settings: ManifestSettings, cpus: int, gpus: int, memory: int) -> Mapping:
    container = _container("ray-worker", settings, cpus, gpus, memory)
    container.update(_probes("/api/local_raylet_healthz", _AGENT_PORT))
    pod = _pod(settings, container)
    pod["automountServiceAccountToken"] = False
    if gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    if settings.node_label is not None and name != "data":
        key, _, value = settings.node_label.partition("=")
        pod["nodeSelector"] = {key: value}
    return {
        "groupName": name,
        "replicas": nodes,
        "minReplicas": 0 if settings.autoscale else nodes,
        "maxReplicas": nodes,
        "rayStartParams": {"num-cpus": str(cpus), "num-gpus": str(gpus)},
        "template": {"spec": pod},
    }


def _onto_spot(pod: Mapping, settings: ManifestSettings) -> None:
    key, _, value = settings.spot_label.partition("=")
    pod["nodeSelector"] = {**pod.get("nodeSelector", {}), key: value}
    taint = {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
    pod["tolerations"] = [*pod.get("tolerations", []), taint]


def _pod(settings: ManifestSettings, container: Mapping) -> Mapping:
    claims = [{"name": claim.name, "persistentVolumeClaim": {"claimName": claim.name}} for claim in settings.claims]
    pod: Mapping = {
        "securityContext": _pod_security(),
        "terminationGracePeriodSeconds": settings.grace,
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}, *claims],
    }
    if settings.service_account is not None:
        pod["serviceAccountName"] = settings.service_account
    return pod


def _container(name: str, settings: ManifestSettings, cpus: int, gpus: int, memory: int) -> Mapping:
    amounts: Mapping = {"cpu": str(cpus), "memory": f"{memory}Gi"}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    mounts += [{"name": claim.name, "mountPath": claim.path} for claim in settings.claims]
    return {
        "name": name,
        "image": settings.image,
        "securityContext": _container_security(),
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "env": _environment(settings),
        "envFrom": [{"secretRef": {"name": secret}} for secret in settings.secrets],
        "volumeMounts": mounts,
    }


def _environment(settings: ManifestSettings) -> list[Mapping]:
    values = {
        "AWS_ENDPOINT_URL": settings.s3_endpoint,
        "AWS_DEFAULT_REGION": settings.s3_region,
        "AWS_REGION": settings.s3_region,
        "MLFLOW_TRACKING_URI": settings.mlflow,
        **RAY_ENVIRONMENT,
        # A pod that is deleted drains its node, and the run leaves it; the rest of the grace time is Ray's own end.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(max(settings.grace - _END_SECONDS, 0)),
    }
    return [{"name": name, "value": value} for name, value in values.items() if value is not None]


def _probes(path: str, port: int) -> Mapping:
    """Ray answers these without a token; KubeRay's own ask Ray Serve too, which is not there."""
    ask = {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 5, "periodSeconds": 10}
    return {
        "startupProbe": {**ask, "failureThreshold": 60},
        "readinessProbe": {**ask, "failureThreshold": 3},
        "livenessProbe": {**ask, "failureThreshold": 12},
    }


def _pod_security() -> Mapping:
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container_security() -> Mapping:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _submitter(settings: ManifestSettings) -> Mapping:
    """The pod that hands the job to the cluster and waits for it."""
    amounts = {"cpu": "500m", "memory": "1Gi"}
    container = {
        "name": "ray-job-submitter",
        "image": settings.image,
        "securityContext": _container_security(),
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": _pod_security(),
        "containers": [container],
    }


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, and no anchors, which people and Kubernetes read alike."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _dump(*documents: Mapping) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=True)
