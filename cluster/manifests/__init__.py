"""From one config to what brings up a cluster for it: KubeRay YAML, a SLURM script, a container recipe."""

from cluster.manifests.container import container
from cluster.manifests.kuberay import ray_cluster, ray_job
from cluster.manifests.settings import Claim, ManifestSettings, Shape, shape
from cluster.manifests.slurm import slurm

__all__ = ["Claim", "ManifestSettings", "Shape", "container", "ray_cluster", "ray_job", "shape", "slurm"]
