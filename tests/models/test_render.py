"""What `render` promises to the rooms above it."""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import replace

import pytest
import torch
from render_scenes import gradients, leaves, orbit_cameras, pixel_loss, random_gaussians
from torch import Tensor

from data.views import Cameras
from models.gaussians import Gaussians
from models.render import Rendering, rasterizer, render

BACKENDS = ["cpu", "reference"]


def float_scene(seed: int = 0, count: int = 300, batch: int = 1, views: int = 1) -> tuple[Gaussians, Cameras]:
    gaussians = random_gaussians(seed, count, batch).map(Tensor.float)
    return gaussians, orbit_cameras(seed, 45, 37, batch, views).map(Tensor.float)


def one_gaussian(log_scale: float = -4.0, opacity_logit: float = 2.0) -> Gaussians:
    """At the origin, round, bluish."""
    sh = torch.tensor([[[[-1.0, 0.0, 1.0]]]])
    quats = torch.tensor([[[1.0, 0, 0, 0]]])
    return Gaussians(
        torch.zeros(1, 1, 3), quats, torch.full((1, 1, 3), log_scale), torch.full((1, 1), opacity_logit), sh
    )


def front_camera(size: int = 33) -> Cameras:
    """Half a metre in front of the origin, which falls on the centre of the middle pixel."""
    matrix = torch.eye(4)
    matrix[2, 3] = 0.5
    K = torch.tensor([[60.0, 0, size / 2], [0, 60.0, size / 2], [0, 0, 1]])
    return Cameras(matrix[None, None], K[None, None], size, size)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_gaussian(backend: str) -> None:
    drawn = render(one_gaussian(), front_camera(), depth=True, backend=backend)
    assert drawn.images.shape == (1, 1, 3, 33, 33)
    assert drawn.alphas.shape == (1, 1, 1, 33, 33)
    middle = (0, 0, slice(None), 16, 16)
    opacity = torch.tensor(2.0).sigmoid()
    color = (0.5 + 0.28209479 * torch.tensor([-1.0, 0.0, 1.0])).clamp_min(0)
    torch.testing.assert_close(drawn.alphas[middle], opacity[None])
    torch.testing.assert_close(drawn.images[middle], opacity * color)
    assert drawn.depths is not None
    torch.testing.assert_close(drawn.depths[middle], torch.tensor([0.5]))
    # one standard deviation from the centre: 60 px/m * exp(-4) m / 0.5 m, blurred by 0.3 px^2
    variance = (60 * torch.tensor(-4.0).exp() / 0.5) ** 2 + 0.3
    torch.testing.assert_close(drawn.alphas[0, 0, 0, 16, 19], opacity * torch.exp(-0.5 * 9 / variance))
    assert drawn.alphas[0, 0, 0, 0, 0] == 0
    assert drawn.depths[0, 0, 0, 0, 0] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_background_shows_through(backend: str) -> None:
    gaussians, cameras = float_scene(batch=2, views=2)
    plain = render(gaussians, cameras, backend=backend)
    one = torch.tensor([0.2, 0.5, 0.9])
    each = torch.rand(2, 2, 3)
    for background, expected in ((one, one.expand(2, 2, 3)), (each, each)):
        drawn = render(gaussians, cameras, background=background, backend=backend)
        torch.testing.assert_close(drawn.images, plain.images + (1 - plain.alphas) * expected[..., None, None])


@pytest.mark.parametrize("backend", BACKENDS)
def test_background_gradient(backend: str) -> None:
    gaussians, cameras = float_scene()
    background = torch.tensor([0.2, 0.5, 0.9], requires_grad=True)
    drawn = render(gaussians, cameras, background=background, backend=backend)
    drawn.images.sum().backward()
    assert background.grad is not None
    torch.testing.assert_close(background.grad, (1 - drawn.alphas).sum().expand(3))


def test_subjects_and_views_do_not_mix() -> None:
    gaussians, cameras = float_scene(batch=2, views=3)
    together = render(gaussians, cameras, depth=True)
    for subject in range(2):
        for view in range(3):
            alone = render(
                gaussians[subject : subject + 1], cameras[subject : subject + 1, view : view + 1], depth=True
            )
            for name in ("images", "alphas", "depths"):
                assert torch.equal(getattr(alone, name)[0, 0], getattr(together, name)[subject, view])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", ["none", "behind", "too near", "beside", "transparent", "singular camera"])
def test_nothing_to_see(what: str, backend: str) -> None:
    gaussians, cameras = one_gaussian(), front_camera()
    if what == "none":
        gaussians = gaussians.map(lambda tensor: tensor[:, :0])
    elif what == "behind":
        gaussians = replace(gaussians, means=torch.tensor([[[0.0, 0, -0.7]]]))
    elif what == "too near":
        gaussians = replace(gaussians, means=torch.tensor([[[0.0, 0, -0.495]]]))
    elif what == "beside":
        gaussians = replace(gaussians, means=torch.tensor([[[3.0, 0, 0]]]))
    elif what == "transparent":
        gaussians = replace(gaussians, opacities=torch.tensor([[-6.0]]))
    else:
        cameras = replace(cameras, world_to_camera=torch.full((1, 1, 4, 4), torch.nan))
    leaf_gaussians, leaf_cameras = leaves(gaussians, cameras, torch.float32)
    background = torch.tensor([0.1, 0.2, 0.3])
    drawn = render(leaf_gaussians, leaf_cameras, background=background, depth=True, backend=backend)
    assert drawn.depths is not None
    assert torch.equal(drawn.images, background[:, None, None].expand(1, 1, 3, 33, 33))
    assert not drawn.alphas.any()
    assert not drawn.depths.any()
    (drawn.images.sum() + drawn.depths.sum()).backward()
    for name, gradient in gradients(leaf_gaussians, leaf_cameras).items():
        assert gradient is None or not gradient.any(), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("field", ["means", "quats", "scales", "opacities", "sh"])
def test_non_finite_gaussians_are_left_out(field: str, bad: float, backend: str) -> None:
    if field == "opacities" and bad == torch.inf:
        bad = -torch.inf  # plus infinity would be an opacity of 1
    gaussians, cameras = float_scene(count=40)
    clean = render(gaussians.map(lambda tensor: tensor[:, 1:]), cameras, backend=backend)
    values = getattr(gaussians, field).clone()
    values[0, 0] = bad
    poisoned, _ = leaves(replace(gaussians, **{field: values}), cameras, torch.float32)
    drawn = render(poisoned, cameras, backend=backend)
    torch.testing.assert_close(drawn.images, clean.images, atol=1e-6, rtol=0)
    drawn.images.square().sum().backward()
    for name in ("means", "quats", "scales", "opacities", "sh"):
        gradient = getattr(poisoned, name).grad
        assert gradient.isfinite().all(), name
        assert not gradient[0, 0].any(), name


def test_a_gaussian_larger_than_the_image() -> None:
    drawn = render(one_gaussian(log_scale=3.0, opacity_logit=20.0), front_camera(100))
    torch.testing.assert_close(drawn.alphas, torch.full_like(drawn.alphas, 0.999))


def test_max_alpha() -> None:
    drawn = render(one_gaussian(opacity_logit=20.0), front_camera(), max_alpha=0.9)
    torch.testing.assert_close(drawn.alphas.max(), torch.tensor(0.9))


def test_antialiasing_dims_what_is_smaller_than_a_pixel() -> None:
    for log_scale, dimmed in ((-9.0, True), (-2.0, False)):
        plain, faithful = (
            render(one_gaussian(log_scale), front_camera(), antialiased=antialiased).alphas.sum()
            for antialiased in (False, True)
        )
        assert (faithful < 0.5 * plain) == dimmed


def draw_with_gradients(gaussians: Gaussians, cameras: Cameras) -> list[Tensor]:
    leaf_gaussians, leaf_cameras = leaves(gaussians, cameras, torch.float32)
    drawn = render(leaf_gaussians, leaf_cameras, antialiased=True, depth=True)
    assert drawn.depths is not None
    weight = torch.randn(*cameras.shape, 5, cameras.height, cameras.width, generator=torch.Generator().manual_seed(0))
    pixel_loss(drawn, weight).backward()
    return [drawn.images, drawn.alphas, drawn.depths, *gradients(leaf_gaussians, leaf_cameras).values()]


@pytest.fixture
def threads():
    """Restores torch's number of threads."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_bitwise_the_same_for_any_number_of_threads(threads) -> None:
    gaussians, cameras = float_scene(count=2000, batch=2, views=2)
    cameras = cameras.resized(150, 170)
    expected = draw_with_gradients(gaussians, cameras)
    for count in (1, 2, 3, 3):
        threads(count)
        for index, (found, wanted) in enumerate(zip(draw_with_gradients(gaussians, cameras), expected, strict=True)):
            assert torch.equal(found, wanted), (count, index)


def _draw_in_child(gaussians: Gaussians, cameras: Cameras, queue) -> None:
    torch.set_num_threads(2)
    queue.put([tensor.detach().numpy() for tensor in draw_with_gradients(gaussians, cameras)])


def test_after_a_fork(threads) -> None:
    """Ray and DataLoader workers may be forked from a process that has rendered."""
    gaussians, cameras = float_scene(batch=2)
    threads(2)
    expected = draw_with_gradients(gaussians, cameras)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_draw_in_child, args=(gaussians, cameras, queue))
    child.start()
    found = queue.get()
    child.join(30)
    assert all((a == b.detach().numpy()).all() for a, b in zip(found, expected, strict=True))


def test_python_threads_do_not_disturb_each_other() -> None:
    scenes = [float_scene(seed) for seed in range(4)]
    expected = [draw_with_gradients(*scene) for scene in scenes]
    found: dict[int, list[Tensor]] = {}

    def work(index: int) -> None:
        for _ in range(3):
            found[index] = draw_with_gradients(*scenes[index])

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, tensors in enumerate(expected):
        assert all(torch.equal(a, b) for a, b in zip(found[index], tensors, strict=True))


def test_backward_twice() -> None:
    gaussians, cameras = leaves(*float_scene(), torch.float32)
    loss = render(gaussians, cameras).images.square().sum()
    first = torch.autograd.grad(loss, gaussians.means, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, gaussians.means)[0])


def test_only_alpha_has_a_gradient() -> None:
    both = []
    for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64)):
        gaussians, cameras = leaves(*float_scene(), dtype)
        render(gaussians, cameras, backend=backend).alphas.square().sum().backward()
        assert gaussians.means.grad is not None
        both.append(gaussians.means.grad.double())
        assert gaussians.sh.grad is None or not gaussians.sh.grad.any()
    assert (both[0] - both[1]).norm() < 1e-4 * both[1].norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_cpu_draws_in_float32(dtype: torch.dtype) -> None:
    gaussians, cameras = float_scene()
    rounded, _ = leaves(gaussians, cameras, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = render(rounded, cameras)
    assert drawn.images.dtype == torch.float32
    assert torch.equal(drawn.images, render(rounded.map(Tensor.float), cameras).images)
    drawn.images.sum().backward()
    assert rounded.means.grad is not None
    assert rounded.means.grad.dtype == dtype


def test_without_gradients_nothing_is_kept() -> None:
    gaussians, cameras = float_scene()
    drawn = render(gaussians, cameras)
    assert not drawn.images.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "metal"}, "unknown backend 'metal'"),
        ({"backend": "cuda"}, "cannot draw tensors on cpu"),
        ({"background": torch.zeros(2)}, "background has shape"),
        ({"max_alpha": 1.0}, "max_alpha is 1.0"),
        ({"near": 0.0}, "near is 0.0"),
    ],
)
def test_bad_settings(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(*float_scene(), **change)


def test_shapes_that_do_not_fit() -> None:
    gaussians, cameras = float_scene(batch=2)
    with pytest.raises(ValueError, match="leading dimensions"):
        render(gaussians[:1], cameras)
    with pytest.raises(ValueError, match="leading dimensions"):
        render(gaussians[0], cameras[0])
    with pytest.raises(ValueError, match="nothing to draw"):
        render(gaussians[:0], cameras[:0])
    with pytest.raises(ValueError, match="0 x 37 pixels"):
        render(gaussians, replace(cameras, width=0))


def test_where_nothing_is_compiled_the_reference_serves(monkeypatch, tmp_path) -> None:
    from models import render as room

    gaussians, cameras = float_scene(count=30)
    compiled = render(gaussians, cameras)
    monkeypatch.setattr(rasterizer, "LIBRARY", tmp_path / "absent.so")
    room._warn_not_built.cache_clear()
    with pytest.warns(UserWarning, match=r"python -m models\.render\.build") as warned:
        drawn: list[Rendering] = [render(gaussians, cameras) for _ in range(2)]
    assert len([w for w in warned if "rasteriser" in str(w.message)]) == 1
    torch.testing.assert_close(drawn[1].images, compiled.images, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="not built"):
        render(gaussians, cameras, backend="cpu")
