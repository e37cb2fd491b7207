"""A batch script for SLURM that brings up Ray on its nodes, trains on it, and takes everything down."""

from __future__ import annotations

import shlex

from cluster.manifests.settings import RAY_ENVIRONMENT, ManifestSettings, shape
from cluster.manifests.terms import terms
from cluster.submission import CONFIG_FILE, TERMS_FILE
from configs import Config, dump_config

_END = "HEADWAY_CONFIG_ENDS"


def slurm(config: Config, settings: ManifestSettings) -> str:
    """The script.

    Args:
        config: placed for the cluster (`cluster.reach.place`), without secrets.
        settings: the rest.

    Returns:
        A bash script for `sbatch`; sent from a folder that all nodes share.
    """
    directives = "\n".join(f"#SBATCH --{line}" for line in _directives(config, settings))
    return _SCRIPT.format(
        directives=directives,
        name=config.run.name,
        environment=_environment(settings),
        config_file=CONFIG_FILE,
        terms_file=TERMS_FILE,
        ray_environment=" ".join(f"{name}={value}" for name, value in RAY_ENVIRONMENT.items()),
        config=_quoted(dump_config(config)),
        terms=_quoted(terms()),
        end=_END,
        cpus=shape(config, settings).cpus,
        gpus=shape(config, settings).gpus,
    )


def _directives(config: Config, settings: ManifestSettings) -> list[str]:
    found = shape(config, settings)
    lines = [
        f"job-name={config.run.name}",
        f"nodes={found.nodes}",
        "ntasks-per-node=1",
        f"cpus-per-task={found.cpus + 1}",
        f"mem={found.memory + 4}G",
        "output=%x-%j.log",
        "open-mode=append",
        "requeue",
        f"signal=B:TERM@{settings.grace}",
    ]
    lines += [f"gpus-per-node={found.gpus}"] if found.gpus else []
    asked = {"partition": settings.partition, "account": settings.account, "time": settings.time}
    return lines + [f"{option}={value}" for option, value in asked.items() if value is not None]


def _environment(settings: ManifestSettings) -> str:
    values = {
        "AWS_ENDPOINT_URL": settings.s3_endpoint,
        "AWS_REGION": settings.s3_region,
        "AWS_DEFAULT_REGION": settings.s3_region,
        "MLFLOW_TRACKING_URI": settings.mlflow,
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items() if value is not None]
    return "\n".join([*([f"source {shlex.quote(settings.activate)}"] if settings.activate else []), *lines])


def _quoted(text: str) -> str:
    """For a here-document, which ends at the first line that is its mark."""
    if _END in text.splitlines():
        raise AssertionError("a config is YAML, of which the mark is no line")
    return text.rstrip("\n")


_SCRIPT = """\
#!/usr/bin/env bash
{directives}
# Made by `headway cluster manifest --kind slurm`. Send it from a folder that all nodes share: sbatch THIS_FILE
set -euo pipefail
umask 077

fail() {{
    echo "headway: $*" >&2
    exit 1
}}
[[ -n ${{SLURM_JOB_ID:-}} ]] || fail "this script is for sbatch: sbatch $0"

# One folder for all attempts of this job: a requeued one goes on from the checkpoints of the last.
work=$PWD/.headway-{name}
mkdir -p "$work"
cat >"$work/{config_file}" <<'{end}'
{config}
{end}
cat >"$work/{terms_file}" <<'{end}'
{terms}
{end}

{environment}
command -v ray >/dev/null || fail "no ray on this node; headway cluster manifest --activate /shared/venv/bin/activate"

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$work/token
export {ray_environment}
od -An -N32 -tx1 /dev/urandom | tr -d ' \\n' >"$RAY_AUTH_TOKEN_PATH"

# SLURM runs this on the allocation's first node. Where that has several networks, name its address on the fast one.
head_ip=${{HEADWAY_HEAD_IP:-$(hostname -I | awk '{{ print $1 }}')}}
[[ -n $head_ip ]] || fail "no address of $(hostname); set HEADWAY_HEAD_IP"
port=${{HEADWAY_PORT:-$((20000 + SLURM_JOB_ID % 10000))}}
export RAY_ADDRESS=$head_ip:$port
scratch=/tmp/ray-$SLURM_JOB_ID # short: Ray puts sockets below it, whose paths may have 107 characters
pids=()

clean() {{
    trap - EXIT
    for pid in "${{pids[@]}}"; do kill -TERM "$pid" 2>/dev/null || true; done
    wait
    rm -f "$RAY_AUTH_TOKEN_PATH"
}}
trap clean EXIT

(exec 3<>"/dev/tcp/$head_ip/$port") 2>/dev/null && fail "port $port of $head_ip is in use; set HEADWAY_PORT"
srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" \\
    ray start --head --block --node-ip-address="$head_ip" --port="$port" --num-cpus={cpus} --num-gpus={gpus} \\
    --include-dashboard=false --temp-dir="$scratch" &
head_pid=$!
pids+=("$head_pid")
for ((attempt = 0; ; attempt++)); do
    kill -0 "$head_pid" 2>/dev/null || fail "Ray's head ended; its words are above"
    ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1 && break
    ((attempt < 60)) || fail "Ray's head does not answer at $RAY_ADDRESS"
    sleep 2
done

if ((SLURM_JOB_NUM_NODES > 1)); then
    # One node that fails leaves the others be: the run goes on without it.
    srun --overlap --kill-on-bad-exit=0 --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 \\
        --exclude="$SLURMD_NODENAME" \\
        ray start --block --address="$RAY_ADDRESS" --num-cpus={cpus} --num-gpus={gpus} --temp-dir="$scratch" &
    pids+=("$!")
fi

(cd "$work" && exec python -m cluster.arrival) &
driver=$!
noticed=0
trap 'noticed=1; kill -TERM "$driver" 2>/dev/null || true' TERM
code=0
wait "$driver" || code=$?
# The notice interrupts `wait`: the run saves, and its own end is what counts.
while kill -0 "$driver" 2>/dev/null; do
    code=0
    wait "$driver" || code=$?
done
if ((noticed && code != 0)); then
    echo "headway: the time is up and the run is saved; back into the queue" >&2
    scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
"""
