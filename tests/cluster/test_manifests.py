"""Manifests: YAML that parses, sizes that are the config's, no secret, and a script that a shell can read."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.cli import main
from cluster.manifests import Claim, ManifestSettings, container, ray_cluster, ray_job, shape, slurm
from cluster.manifests.settings import kubernetes_name
from cluster.submission import CONFIG_FILE, PACKAGES
from configs import Config, UserError, load_config, parse_config

FAR = ["data.train=s3://b/heads", "checkpoint.url=s3://b/runs", "tracking.uri=http://mlflow:5000"]


def config(*overrides: str) -> Config:
    return load_config("headsup-nano", [*FAR, *overrides])


def sized(workers: int, cpus: float, gpus: float) -> Config:
    sizes = [f"cluster.workers={workers}", f"cluster.cpus_per_worker={cpus}", f"cluster.gpus_per_worker={gpus}"]
    return config(*sizes, f"data.batch_size={workers}")


def job(wanted: Config, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return tuple(yaml.safe_load_all(ray_job(wanted, ManifestSettings(**options))))  # type: ignore[return-value]


def groups(wanted: Config, **options: Any) -> dict[str, dict[str, Any]]:
    made = yaml.safe_load(ray_cluster(wanted, ManifestSettings(**options)))
    return {group["groupName"]: group for group in made["spec"]["workerGroupSpecs"]}


def only(group: dict[str, Any]) -> dict[str, Any]:
    (found,) = group["template"]["spec"]["containers"]
    return found


@settings(max_examples=40, deadline=None)
@given(
    workers=st.integers(1, 300),
    cpus=st.sampled_from([0.5, 1.0, 3.0, 8.0]),
    gpus=st.sampled_from([0.0, 0.5, 1.0, 4.0]),
    node_cpus=st.integers(8, 128),
    node_gpus=st.integers(4, 16),
    spot=st.integers(0, 2),
)
def test_the_machines_hold_every_worker_and_none_is_idle(workers, cpus, gpus, node_cpus, node_gpus, spot) -> None:
    wanted, options = sized(workers, cpus, gpus), {"node_cpus": node_cpus, "node_gpus": node_gpus}
    found = shape(wanted, ManifestSettings(**options))
    assert found.nodes * found.workers >= workers > (found.nodes - 1) * found.workers
    assert found.workers * cpus <= found.cpus <= node_cpus
    assert found.workers * gpus <= found.gpus <= node_gpus
    spot = min(spot, found.nodes)
    made = groups(wanted, **options, spot=spot)
    assert sum(group["replicas"] for group in made.values()) == found.nodes
    assert sum(group["replicas"] for name, group in made.items() if name.endswith("-spot")) == spot
    for group in made.values():
        asked = only(group)["resources"]
        assert asked["requests"] == asked["limits"]
        assert asked["limits"]["cpu"] == group["rayStartParams"]["num-cpus"] == str(found.cpus)
        assert asked["limits"].get("nvidia.com/gpu", "0") == group["rayStartParams"]["num-gpus"] == str(found.gpus)
        assert ("nvidia.com/gpu" in asked["limits"]) == (gpus > 0)


def test_a_job_carries_its_config_and_reads_it_where_it_is_mounted() -> None:
    wanted = config("run.name=First_Run.2")
    about, made = job(wanted)
    assert (about["kind"], made["apiVersion"], made["kind"]) == ("ConfigMap", "ray.io/v1", "RayJob")
    assert parse_config(yaml.safe_load(about["data"][CONFIG_FILE])) == wanted
    head = made["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mount = next(mount for mount in head["containers"][0]["volumeMounts"] if mount["name"] == "config")
    volume = next(volume for volume in head["volumes"] if volume["name"] == "config")
    assert volume["configMap"]["name"] == about["metadata"]["name"] == "first-run-2-config"
    assert made["spec"]["entrypoint"] == f"cd {mount['mountPath']} && python -m cluster.arrival"
    assert yaml.safe_load(made["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "120"


def test_every_pod_is_unprivileged_and_probed_and_takes_no_workers_onto_the_head() -> None:
    _, made = job(sized(16, 8, 1), spot=1, cpu_nodes=2)
    spec = made["spec"]["rayClusterSpec"]
    head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert [group["groupName"] for group in workers] == ["gpu", "gpu-spot", "data"]
    assert head["rayStartParams"]["num-cpus"] == head["rayStartParams"]["num-gpus"] == "0"
    submitter = made["spec"]["submitterPodTemplate"]["spec"]
    for pod in [submitter, *(group["template"]["spec"] for group in [head, *workers])]:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for each in pod["containers"]:
            assert each["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for group in [head, *workers]:
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= only(group).keys()
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] == 120
    assert spec["authOptions"] == {"mode": "token"}


def test_spot_machines_are_chosen_and_tolerated() -> None:
    made = groups(sized(16, 8, 1), spot=1, spot_label="pool/spot=yes", node_label="gpu=h100")
    on_demand, spot = (made[name]["template"]["spec"] for name in ("gpu", "gpu-spot"))
    assert spot["nodeSelector"] == {"gpu": "h100", "pool/spot": "yes"}
    assert {"key": "pool/spot", "operator": "Equal", "value": "yes", "effect": "NoSchedule"} in spot["tolerations"]
    assert on_demand["nodeSelector"] == {"gpu": "h100"}
    assert [toleration["key"] for toleration in on_demand["tolerations"]] == ["nvidia.com/gpu"]


def test_a_store_a_tracker_and_secrets_are_named_and_never_written() -> None:
    secret_settings = {"secrets": ("s3", "mlflow"), "service_account": "trainer", "redis_secret": "redis"}
    places = {"mlflow": "http://mlflow:5000", "s3_endpoint": "https://store:9000", "s3_region": "eu-1"}
    _, made = job(config(), **secret_settings, **places, redis="redis:6379")
    spec = made["spec"]["rayClusterSpec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        variables = {each["name"]: each["value"] for each in only(group)["env"]}
        assert variables["AWS_ENDPOINT_URL"] == "https://store:9000"
        assert variables["AWS_REGION"] == variables["AWS_DEFAULT_REGION"] == "eu-1"
        assert variables["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
        assert only(group)["envFrom"] == [{"secretRef": {"name": "s3"}}, {"secretRef": {"name": "mlflow"}}]
        assert group["template"]["spec"]["serviceAccountName"] == "trainer"
    fault_tolerance = spec["gcsFaultToleranceOptions"]
    assert fault_tolerance["redisAddress"] == "redis:6379"
    assert fault_tolerance["redisPassword"]["valueFrom"]["secretKeyRef"] == {"name": "redis", "key": "password"}


def test_shared_volumes_are_mounted_on_every_node() -> None:
    made = groups(config(), claims=(Claim("heads", "/data"),), cpu_nodes=1)
    for group in made.values():
        assert {"name": "heads", "mountPath": "/data"} in only(group)["volumeMounts"]
        volumes = group["template"]["spec"]["volumes"]
        assert {"name": "heads", "persistentVolumeClaim": {"claimName": "heads"}} in volumes


def test_an_autoscaled_cluster_starts_with_nothing_and_its_head_may_ask_for_machines() -> None:
    made = yaml.safe_load(ray_cluster(config(), ManifestSettings(autoscale=True)))["spec"]
    assert made["enableInTreeAutoscaling"] is True
    assert made["autoscalerOptions"]["securityContext"]["allowPrivilegeEscalation"] is False
    assert [group["minReplicas"] for group in made["workerGroupSpecs"]] == [0]
    assert made["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is True


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", fullmatch=True))
def test_any_runs_name_becomes_one_that_kubernetes_takes(name: str) -> None:
    import re

    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", kubernetes_name(name))


def test_a_batch_script_asks_for_the_machines_and_reads_as_bash(tmp_path: Path) -> None:
    text = slurm(sized(16, 4, 1), ManifestSettings(time="1-12", partition="gpu", account="heads", grace=90))
    lines = text.splitlines()
    for line in ("nodes=2", "cpus-per-task=33", "gpus-per-node=8", "time=1-12", "partition=gpu", "signal=B:TERM@90"):
        assert f"#SBATCH --{line}" in lines
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines.index("set -euo pipefail") > max(n for n, line in enumerate(lines) if line.startswith("#SBATCH"))
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-"], input=text, text=True, check=True)


def test_a_batch_script_refuses_to_run_outside_slurm(tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(slurm(config(), ManifestSettings()))
    done = subprocess.run(["bash", "job.sh"], cwd=tmp_path, capture_output=True, text=True, check=False, env={})
    assert done.returncode == 1
    assert "this script is for sbatch" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["job.sh"]


ODD = ["a $(touch x) b", "a `touch x` b", "a'b", 'a"b', "$HOME", "a\nb", "a\n#SBATCH --nodes=9", "%s {x} \\"]


@pytest.mark.parametrize("text", ODD)
def test_whatever_a_config_says_the_script_writes_it_and_runs_nothing(text: str, tmp_path: Path) -> None:
    """The script's first part, up to where it needs SLURM, with a name that would do harm if a shell read it."""
    import json

    wanted = config(f"tracking.experiment={json.dumps(text)}")
    script = slurm(wanted, ManifestSettings()).partition("command -v ray")[0]
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env={"SLURM_JOB_ID": "1", "PATH": "/usr/bin:/bin"}, check=True)
    assert [path.name for path in tmp_path.iterdir()] == [".headway-headsup-nano"]
    assert load_config(tmp_path / ".headway-headsup-nano" / CONFIG_FILE) == wanted


def test_the_containers_recipe_copies_the_rooms_and_the_lock_and_runs_as_a_user() -> None:
    lines = container().splitlines()
    copied = {
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    }
    assert set(PACKAGES) <= copied
    root = Path(__file__).parents[2]
    assert all((root / name).exists() for name in copied)
    assert lines.index("USER 1000:1000") > max(n for n, line in enumerate(lines) if line.startswith("COPY"))


WRONG = [
    ({"image": "a b"}, "--image"),
    ({"image": ""}, "--image"),
    ({"namespace": "Upper"}, "--namespace"),
    ({"service_account": "a_b"}, "--service-account"),
    ({"secrets": ("A",)}, "--secret"),
    ({"claims": (Claim("x", "relative"),)}, "--claim"),
    ({"claims": (Claim("x", "/a b"),)}, "--claim"),
    ({"spot_label": "spot"}, "--spot-label"),
    ({"node_label": "a=b=c d"}, "--node-label"),
    ({"partition": "a;b"}, "--partition"),
    ({"account": "$(x)"}, "--account"),
    ({"time": "soon"}, "--time"),
    ({"activate": "venv/bin/activate"}, "--activate"),
    ({"activate": "/x; rm -rf /"}, "--activate"),
    ({"redis_secret": "x"}, "--redis-secret"),
]


@pytest.mark.parametrize(("options", "where"), WRONG, ids=[str(options) for options, _ in WRONG])
def test_a_setting_that_no_cluster_takes_is_refused_by_its_option(options: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError, match=f"^{where}"):
        ManifestSettings(**options)


def test_a_worker_that_no_machine_holds_and_too_many_spot_machines_are_mistakes() -> None:
    with pytest.raises(UserError, match="does not fit on a machine of 4 and 0"):
        shape(sized(1, 1, 1), ManifestSettings(node_cpus=4, node_gpus=0))
    with pytest.raises(UserError, match="--spot: 3 spot machines of 1"):
        shape(config(), ManifestSettings(spot=3))


KINDS = ["rayjob", "raycluster", "slurm", "container"]


def manifest(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["cluster", "manifest", "headsup-nano", *arguments])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_of_the_machine_is_in_any_manifest(kind: str, capsys, monkeypatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "hunter2hunter2")
    code, out, err = manifest(capsys, *FAR, "--kind", kind, "--secret", "s3")
    assert (code, err) == (0, "")
    assert "hunter2" not in out


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_can_be_written_to_a_file(kind: str, tmp_path: Path, capsys) -> None:
    target = tmp_path / "manifest"
    assert manifest(capsys, *FAR, "--kind", kind, "--out", str(target))[:2] == (0, f"{target}\n")
    assert target.read_text() == manifest(capsys, *FAR, "--kind", kind)[1]


def test_every_option_reaches_the_manifest(capsys) -> None:
    options = {"image": "reg/hw:1", "namespace": "heads", "node-label": "gpu=h100", "service-account": "trainer"}
    options |= {"secret": "s3", "claim": "heads:/data", "mlflow": "http://m:5000", "s3-endpoint": "https://s3:9000"}
    options |= {"s3-region": "eu-1", "redis": "r:6379", "redis-secret": "pw", "retries": "5", "grace": "77"}
    options |= {"spot": "1", "spot-label": "pool=spot", "cpu-nodes": "3", "node-cpus": "2", "worker-memory": "5"}
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    code, out, err = manifest(capsys, "data.train=s3://b/x", "checkpoint.url=s3://b/r", "--name", "mine", *given)
    assert (code, err) == (0, "")
    for value in ("reg/hw:1", "heads", "h100", "trainer", "s3", "/data", "http://m:5000", "https://s3:9000", "eu-1"):
        assert value in out
    for line in ("backoffLimit: 5", "terminationGracePeriodSeconds: 77", "memory: 10Gi", "name: mine", "pool: spot"):
        assert line in out
    assert "groupName: data\n" in out.replace("- ", "")


MISTAKES = [
    ([], "data.train", "--claim NAME:FOLDER"),
    ([*FAR, "--kind", "pie"], "pie", "raycluster"),
    ([*FAR, "--claim", "heads"], "--claim", "CLAIM:PATH"),
    ([*FAR, "--mlflow", "http://u:hunter2@m:5000"], "credentials do not belong in a URL", ""),
    ([*FAR, "--mlflow", "http://127.0.0.1:5000"], "--mlflow", "nodes know"),
    ([*FAR, "--s3-endpoint", "http://localhost:9000"], "--s3-endpoint", "nodes know"),
    ([*FAR, "--spot", "9"], "--spot", "at most 1"),
    ([*FAR, "--node-cpus", "1", "cluster.cpus_per_worker=2"], "does not fit", "cluster.cpus_per_worker"),
    ([*FAR, "--image", "a b"], "--image", "registry/name:tag"),
    ([*FAR, "--grace", "1"], "1", "10"),
    ([*FAR, "--out", "/no/such/folder/x.yaml"], "cannot be written", ""),
    (["nonsense=1"], "unknown key 'nonsense'", ""),
]


@pytest.mark.parametrize(("arguments", "message", "hint"), MISTAKES, ids=lambda value: " ".join(value)[-40:])
def test_a_mistake_gives_one_message(arguments: list[str], message: str, hint: str, capsys) -> None:
    code, _, err = manifest(capsys, *arguments)
    assert code == 2
    assert message in err
    assert hint in err
    assert "Traceback" not in err
    assert "hunter2" not in err


def test_memory_is_the_workers_share() -> None:
    found = shape(sized(4, 1, 0), ManifestSettings(worker_memory=2.5))
    assert found.memory == math.ceil(4 * 2.5)


def documented() -> list[str]:
    """Every `headway cluster manifest` of the documentation, on one line."""
    pages = [page.read_text().replace("\\\n", " ") for page in (Path(__file__).parents[2] / "docs").glob("*.md")]
    lines = [line.strip().partition("#")[0] for page in pages for line in page.splitlines()]
    return [" ".join(line.split()) for line in lines if line.startswith("headway cluster manifest")]


@pytest.mark.parametrize("line", documented())
def test_the_documentations_commands_work_as_they_stand(line: str, tmp_path: Path, monkeypatch, capsys) -> None:
    import shlex

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line)[1:])
    assert end.value.code == 0, capsys.readouterr().err
    (made,) = tmp_path.iterdir()
    assert made.name in line


def test_the_documentation_shows_every_kind() -> None:
    assert all(any(f"--kind {kind}" in line for line in documented()) for kind in KINDS)
