"""What a submitted job does first, in the shipped folder on the cluster: look around, then train."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.cli import main
from cluster.needs import Node, fitting, shortage
from cluster.session import cluster_address
from cluster.submission import CONFIG_FILE, TERMS_FILE, version
from configs import Config, UserError, load_config

_LOOK_EVERY_SECONDS = 5.0


def arrive(folder: Path) -> list[str]:
    """Check what the job was promised.

    Returns:
        Arguments of the command line that trains.

    Raises:
        UserError: other versions than where the job was made.
    """
    terms = json.loads((folder / TERMS_FILE).read_text())
    compare(terms["versions"])
    if terms["wait"]:
        wait_for_machines(load_config(folder / CONFIG_FILE))
    return ["train", str(folder / CONFIG_FILE)]


def compare(wanted: Mapping[str, str]) -> None:
    """Refuse to train with other packages than the ones that were tested together.

    Raises:
        UserError: naming each package that differs.
    """
    there = {name: version(name) for name in wanted}
    differing = [
        f"{name} {there[name] or 'missing'}, not {want}" for name, want in wanted.items() if there[name] != want
    ]
    if differing:
        raise UserError(
            f"the cluster's Python has other packages: {'; '.join(differing)}",
            where=sys.executable,
            hint="use an image of this version (headway cluster manifest --kind container), or submit with --install, "
            "or with --any-versions to run all the same",
        )


def wait_for_machines(config: Config) -> None:
    """Ask the autoscaler for room for every worker, and return when it is there."""
    import ray
    from ray.autoscaler.sdk import request_resources

    want = config.cluster
    bundle = {"CPU": want.cpus_per_worker, **({"GPU": want.gpus_per_worker} if want.gpus_per_worker else {})}
    ray.init(address=cluster_address(config) or "auto", log_to_driver=False, configure_logging=False)
    try:
        request_resources(bundles=[bundle] * want.workers)
        said = None
        while (missing := shortage(config, _nodes(ray))) is not None:
            if missing != said:
                print(f"waiting for machines: {missing}", flush=True)
                said = missing
            time.sleep(_LOOK_EVERY_SECONDS)
        print(f"{fitting(config, _nodes(ray))} workers fit, {want.workers} are wanted", flush=True)
    finally:
        # The request would hold its machines for good; from here on the workers' own reservation does.
        request_resources(bundles=[])
        ray.shutdown()


def _nodes(ray: Any) -> list[Node]:
    return [
        Node(node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


if __name__ == "__main__":
    try:
        arguments = arrive(Path.cwd())
    except UserError as error:
        print(f"headway: {error}", file=sys.stderr)
        sys.exit(2)
    main(arguments)
