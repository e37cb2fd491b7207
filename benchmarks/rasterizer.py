"""The CPU rasteriser against the torch reference and against a prototype, side by side in one process.

    python benchmarks/rasterizer.py [--json] [--threads 2] [--repeats 21] [--processor-time]
                                    [--instruction-set avx512|avx2|baseline]

The prototype (../shared/reference/rasterizer, optional) is compiled twice into a temporary folder: with its README's
flags for exactly this machine, and with the flags of the kernels that ours chose. Contenders take turns, so that a
noisy machine hurts all alike; a ratio is the median over turns. The prototype is given activated scales, opacities
and RGB colours; ours does the same picture from log-scales, logits and harmonics of degree 0, so it does more.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _report import finish, median_and_spread
from torch import Tensor

from data.views import Cameras
from models.gaussians import Gaussians
from models.render import rasterizer, render
from models.render.build import find_compiler

PROTOTYPE = Path(__file__).parents[1].parent / "shared" / "reference" / "rasterizer"
PROTOTYPE_FLAGS = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]
MARCH = {"avx512": "-march=x86-64-v4", "avx2": "-march=x86-64-v3"}
CASES = [(4_000, 128), (16_000, 256), (64_000, 256), (64_000, 512)]
SH0 = 0.28209479177387814
Contender = tuple[Callable[[], Any], Callable[[], Any]]  # forward; forward and backward


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=21, help="turns of each contender")
    parser.add_argument("--processor-time", action="store_true", help="of one thread, for a machine that is not idle")
    parser.add_argument(
        "--instruction-set", choices=["avx512", "avx2", "baseline"], help="the machine's best by default"
    )
    arguments = parser.parse_args()
    if arguments.instruction_set:
        rasterizer.use_instruction_set(arguments.instruction_set)
    if arguments.processor_time and arguments.threads != 1:
        parser.error("--processor-time needs --threads 1: waiting OpenMP threads spin, and their time would count")
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.processor_time else time.perf_counter
    results: dict[str, Any] = {
        "threads": arguments.threads,
        "clock": clock.__name__,
        "instruction_set": rasterizer.instruction_set(),
    }
    print(f"{results['instruction_set']} kernels, {arguments.threads} threads; ms: median (interquartile range);")
    print("ratio: headway to this, forward and with backward\n")
    with tempfile.TemporaryDirectory() as folder:
        prototypes = compile_prototypes(Path(folder), arguments.threads)
        for count, size in CASES:
            contenders = {"headway": ours(*head(count, size)), "headway, harmonics 1": through_render(count, size)}
            contenders |= {name: theirs(module, *head(count, size)) for name, module in prototypes.items()}
            results[f"{count // 1000}K@{size}"] = report(
                f"{count} @ {size}x{size}", contenders, arguments.repeats, clock
            )
    nano = {"headway": through_render(4_608, 128, batch=2, views=6)}
    results["nano"] = report("2 subjects x 6 views of 4608 @ 128x128, harmonics 1", nano, arguments.repeats, clock)
    small = {"headway": through_render(4_000, 128), "reference": through_render(4_000, 128, backend="reference")}
    results["reference"] = report("4000 @ 128x128, against the torch backend", small, 3, clock)
    finish(results, arguments.json)


def head(count: int, size: int, batch: int = 1, views: int = 1, degree: int = 0) -> tuple[Gaussians, Cameras]:
    """Gaussians spread over an ellipsoid of a head's size, as large as their spacing, and cameras in front of it."""
    g = torch.Generator().manual_seed(count)
    turn = torch.arange(count) * 2.399963  # golden angle
    height = 1 - 2 * (torch.arange(count) + 0.5) / count
    ring = (1 - height**2).sqrt()
    surface = torch.stack([ring * turn.cos(), height, ring * turn.sin()], dim=-1) * torch.tensor([0.10, 0.13, 0.11])
    spacing = (0.16 / count) ** 0.5  # the ellipsoid's surface is 0.16 square metres
    lead = (batch, count)
    scales = (
        torch.randn(*lead, 3, generator=g) * 0.3 + torch.tensor([0.75, 0.75, 0.25]).log() + torch.tensor(spacing).log()
    )
    gaussians = Gaussians(
        means=surface + torch.randn(*lead, 3, generator=g) * 0.002,
        quats=torch.randn(*lead, 4, generator=g),
        scales=scales,
        opacities=torch.randn(*lead, generator=g) * 1.5 + 0.5,
        sh=torch.randn(*lead, (degree + 1) ** 2, 3, generator=g) * 0.5,
    )
    yaw = 0.2 + 0.3 * torch.arange(batch * views).reshape(batch, views)
    world_to_camera = torch.eye(4).repeat(batch, views, 1, 1)
    world_to_camera[..., 0, 0] = world_to_camera[..., 2, 2] = yaw.cos()
    world_to_camera[..., 0, 2], world_to_camera[..., 2, 0] = yaw.sin(), -yaw.sin()
    world_to_camera[..., 2, 3] = 1.0
    focal = 0.8 * size / 0.26
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]).repeat(batch, views, 1, 1)
    return gaussians, Cameras(world_to_camera, K, size, size)


def leaves(*tensors: Tensor) -> list[Tensor]:
    """Copies that collect gradients."""
    return [tensor.detach().contiguous().clone().requires_grad_() for tensor in tensors]


def contender(draw: Callable[[], Tensor], inputs: list[Tensor]) -> Contender:
    """Forward without a graph; forward and backward with a given gradient of the image."""
    with torch.no_grad():
        weight = torch.randn_like(draw())

    def forward() -> None:
        with torch.no_grad():
            draw()

    def both() -> None:
        for tensor in inputs:
            tensor.grad = None
        draw().backward(weight)

    return forward, both


def ours(gaussians: Gaussians, cameras: Cameras) -> Contender:
    """The C++ backend alone."""
    inputs = leaves(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    settings = {"width": cameras.width, "height": cameras.height, "near": 0.01, "max_alpha": 0.999}
    everything = [*inputs, cameras.world_to_camera, cameras.K, torch.zeros(*cameras.shape, 3)]
    return contender(lambda: rasterizer.rasterize(*everything, **settings, antialiased=False, depth=False)[0], inputs)


def through_render(count: int, size: int, batch: int = 1, views: int = 1, backend: Any = None) -> Contender:
    """`render`, as the trainer calls it, with harmonics of degree 1."""
    gaussians, cameras = head(count, size, batch, views, degree=1)
    inputs = leaves(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    moving = Gaussians(*inputs)
    return contender(lambda: render(moving, cameras, backend=backend).images, inputs)


def theirs(module: Any, gaussians: Gaussians, cameras: Cameras) -> Contender:
    """The prototype, on the same picture."""
    colors = (0.5 + SH0 * gaussians.sh[0, :, 0]).clamp_min(0)
    activated = (gaussians.scales[0].exp(), gaussians.opacities[0].sigmoid(), colors)
    inputs = leaves(gaussians.means[0], gaussians.quats[0], *activated)
    camera = (cameras.world_to_camera[0, 0], cameras.K[0, 0], cameras.width, cameras.height)
    return contender(lambda: module.rasterization(*inputs, *camera, torch.zeros(3))[0], inputs)


def compile_prototypes(folder: Path, threads: int) -> dict[str, Any]:
    """The prototype for this machine and with our flags; empty where it, or a compiler, is not there."""
    compiler = find_compiler()
    if compiler is None or not PROTOTYPE.is_dir():
        print("no prototype to compare with\n")
        return {}
    same = MARCH.get(rasterizer.instruction_set())
    modules = {}
    for name, march in (("prototype, native", ["-march=native"]), ("prototype, our flags", [same] if same else [])):
        place = folder / name.replace(" ", "")
        place.mkdir()
        shutil.copy(PROTOTYPE / "bind.py", place)
        flags = [*PROTOTYPE_FLAGS, "-Wno-psabi", "-DMAX_ALPHA=0.999f", *march]
        output = ["-o", str(place / "libraster.so"), str(PROTOTYPE / "raster.cpp")]
        subprocess.run([compiler, *flags, *output], check=True)
        spec = importlib.util.spec_from_file_location("bind", place / "bind.py")
        assert spec is not None
        assert spec.loader is not None
        modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
        modules[name].set_threads(threads)
    return modules


def report(title: str, contenders: dict[str, Contender], repeats: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Let contenders take turns; print and return their times."""
    times: dict[str, list[list[float]]] = {name: [[], []] for name in contenders}
    for functions in contenders.values():
        for function in functions:
            function()
    for _ in range(repeats):
        for name, functions in contenders.items():
            for kind, function in enumerate(functions):
                time.sleep(0.01)  # an OpenMP pool spins on for milliseconds, on cores that the next one needs
                start = clock()
                function()
                times[name][kind].append((clock() - start) * 1e3)
    print(f"{title:<52}{'forward':>16}{'with backward':>18}{'ratio':>14}")
    results = {}
    for name, pair in times.items():
        figures = {key: median_and_spread(values) for key, values in zip(("forward", "both"), pair, strict=True)}
        ratios = [
            median_and_spread([a / b for a, b in zip(mine, other, strict=True)])["median"]
            for mine, other in zip(times["headway"], pair, strict=True)
        ]
        results[name] = {**figures, "headway_over_this": ratios}
        cells = [f"{f['median']:.2f} ({f['iqr']:.2f})" for f in figures.values()]
        print(f"  {name:<50}{cells[0]:>16}{cells[1]:>18}{ratios[0]:>8.2f}{ratios[1]:>6.2f}")
    print()
    return results


if __name__ == "__main__":
    main()
