"""Backend `cpu`: the C++ rasteriser in `cpu/`, loaded with ctypes and wrapped as one autograd function."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LIBRARY = Path(__file__).with_name("_rasterizer.so")
_FLOATS = ctypes.c_void_p


class _Scene(ctypes.Structure):
    """Mirrors `Scene` in cpu/api.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "views", "count")),
        *((name, ctypes.c_int32) for name in ("width", "height", "sh_bases", "antialiased", "threads")),
        *((name, ctypes.c_float) for name in ("near", "max_alpha")),
        *((name, _FLOATS) for name in ("means", "quats", "log_scales", "opacity_logits", "sh")),
        *((name, _FLOATS) for name in ("world_to_camera", "intrinsics", "background")),
        *((name, _FLOATS) for name in ("color", "alpha", "depth")),
    )


class _Gradients(ctypes.Structure):
    """Mirrors `Gradients` in cpu/api.cpp."""

    _fields_ = (
        *((name, _FLOATS) for name in ("color", "alpha", "depth")),
        *((name, _FLOATS) for name in ("means", "quats", "log_scales", "opacity_logits", "sh")),
        *((name, _FLOATS) for name in ("world_to_camera", "intrinsics")),
    )


def load_library() -> ctypes.CDLL | None:
    """The compiled rasteriser, or None if it has not been built or does not fit this machine."""
    return _load(LIBRARY)


@functools.cache
def _load(path: Path) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return None
    library.headway_forward.restype = ctypes.c_void_p
    library.headway_forward.argtypes = [ctypes.POINTER(_Scene)]
    library.headway_backward.argtypes = [ctypes.POINTER(_Scene), ctypes.c_void_p, ctypes.POINTER(_Gradients)]
    library.headway_release.argtypes = [ctypes.c_void_p]
    library.headway_release.restype = None
    library.headway_last_error.restype = ctypes.c_char_p
    library.headway_instruction_set.restype = ctypes.c_char_p
    library.headway_use_instruction_set.argtypes = [ctypes.c_char_p]
    return library


def instruction_set() -> str:
    """Name of the kernels in use: avx512, avx2 or baseline."""
    return _library().headway_instruction_set().decode()


def use_instruction_set(name: str) -> None:
    """Use narrower kernels than the machine's best; for tests and benchmarks.

    Raises:
        ValueError: a name that this build does not have.
    """
    if _library().headway_use_instruction_set(name.encode()):
        raise ValueError(f"no kernels named {name!r} in this build")


def _library() -> ctypes.CDLL:
    library = load_library()
    if library is None:
        raise RuntimeError("the C++ rasteriser is not built: python -m models.render.build")
    return library


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class _Frame:
    """What the C++ side keeps between forward and backward; freed with the graph."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self._release = _library().headway_release  # module globals may be gone when the interpreter ends

    def __del__(self) -> None:
        self._release(self.handle)


def _scene(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], settings: dict[str, Any]) -> _Scene:
    means, _, _, _, sh, cameras = inputs[:6]
    color, alpha, depth = (*outputs, None)[:3]
    return _Scene(
        means.shape[0], cameras.shape[1], means.shape[1],
        settings["width"], settings["height"], sh.shape[-2], settings["antialiased"], torch.get_num_threads(),
        settings["near"], settings["max_alpha"],
        *(tensor.data_ptr() for tensor in inputs),
        _pointer(color), _pointer(alpha), _pointer(depth),
    )  # fmt: skip


class _Rasterize(torch.autograd.Function):
    """Inputs as in `rasterize`, all contiguous float32; `settings` is width, height, near and so on."""

    @staticmethod
    def forward(ctx: Any, settings: dict[str, Any], *inputs: Tensor) -> tuple[Tensor, ...]:
        images = inputs[5].shape[:2]
        channels = (3, 1, 1) if settings["depth"] else (3, 1)
        outputs = tuple(torch.empty(*images, c, settings["height"], settings["width"]) for c in channels)
        handle = _library().headway_forward(_scene(inputs, outputs, settings))
        if handle is None:
            raise RuntimeError(f"rasteriser: {_library().headway_last_error().decode()}")
        ctx.frame, ctx.settings = _Frame(handle), settings
        ctx.save_for_backward(*inputs, *outputs)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, outputs = ctx.saved_tensors[:8], ctx.saved_tensors[8:]
        # The tensors must outlive the call below: a pointer alone does not keep them.
        given = tuple(None if g is None else g.contiguous() for g in given)
        wants_cameras = any(ctx.needs_input_grad[6:8])
        wanted = [torch.empty_like(tensor) for tensor in inputs[: 7 if wants_cameras else 5]]
        gradients = _Gradients(*map(_pointer, (*given, None)[:3]), *map(_pointer, (*wanted, None, None)[:7]))
        if _library().headway_backward(_scene(inputs, outputs, ctx.settings), ctx.frame.handle, gradients):
            raise RuntimeError(f"rasteriser: {_library().headway_last_error().decode()}")
        background = None
        if ctx.needs_input_grad[8] and given[0] is not None:
            background = (given[0] * (1 - outputs[1])).sum((-2, -1))
        return None, *wanted, *([] if wants_cameras else [None, None]), background


def rasterize(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    sh: Tensor,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    background: Tensor,
    **settings: Any,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw every view of every subject; float32 on the CPU.

    Args:
        means, quats, log_scales, opacity_logits, sh: `[batch, n, ...]`, as in `Gaussians`.
        world_to_camera, intrinsics: `[batch, view, 4, 4]` and `[batch, view, 3, 3]`.
        background: `[batch, view, 3]`.
        settings: width, height, near, max_alpha, antialiased, depth.

    Returns:
        images `[batch, view, 3, h, w]`, alphas `[batch, view, 1, h, w]`, and, if `depth` is set, the sum of weight
        times camera z, like alphas, else None.
    """
    inputs = (means, quats, log_scales, opacity_logits, sh, world_to_camera, intrinsics, background)
    outputs = _Rasterize.apply(settings, *(tensor.to(torch.float32).contiguous() for tensor in inputs))
    return (*outputs, None)[:3]  # type: ignore[return-value]
