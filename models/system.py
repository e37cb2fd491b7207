"""What a system is to the rest of the house: source views in, Gaussians out, the background apart."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.errors import UserError
from configs.schema import SystemConfig
from data.views import Cameras, Views
from models.gaussians import Gaussians
from models.render import render

Forward = Callable[[Tensor, Tensor, Tensor, Tensor | None], Mapping[str, Tensor]]
FIELDS = ("means", "quats", "scales", "opacities", "sh")


@dataclass(frozen=True)
class Prediction:
    """What a system makes of the source views.

    Attributes:
        foreground: `[batch, n]` Gaussians of the person.
        background: `[batch, m]` Gaussians behind everything, or none.
        extras: other tensors that objectives may use, by name.
    """

    foreground: Gaussians
    background: Gaussians | None
    extras: Mapping[str, Tensor]


@dataclass(frozen=True)
class Composite:
    """A rendered prediction.

    Attributes:
        images: `[batch, view, 3, h, w]`, person over background.
        alphas: `[batch, view, 1, h, w]`, coverage by the person alone.
    """

    images: Tensor
    alphas: Tensor


class System(nn.Module, ABC):
    """A family of models. `models/<name>/` holds one subclass, called `Model`."""

    @abstractmethod
    def forward(
        self, images: Tensor, world_to_camera: Tensor, K: Tensor, coefficients: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Tensors in, tensors out, so that ZeRO-3's hooks and `torch.export` see them all.

        Args:
            images: `[batch, view, 3, h, w]` sRGB in [0, 1].
            world_to_camera: `[batch, view, 4, 4]`.
            K: `[batch, view, 3, 3]` pixels.
            coefficients: `[batch, 52]` the expression that the head shall show, in the order of `data.arkit.ARKIT`;
                systems that read it from the images alone ignore it.

        Returns:
            `foreground.<field>` of `Gaussians`, `background.<field>` where there is one, and extras.

        Raises:
            UserError: no coefficients for a system that needs them.
        """


class LatentSystem(System):
    """A system that describes a person by a latent map Z, from which alone it can make the Gaussians."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of Z."""

    @abstractmethod
    def encode(self, images: Tensor, world_to_camera: Tensor, K: Tensor) -> Tensor:
        """Z `[batch, *latent_shape]` of source views as `forward` takes them."""

    def check_decoder(self) -> None:
        """Raise UserError where `decode` would: Z is not all that this decoder looks at."""

    @abstractmethod
    def decode(self, latents: Tensor) -> dict[str, Tensor]:
        """`foreground.<field>` and extras from `[batch, *latent_shape]` alone; there is no background in it.

        Raises:
            UserError: this checkpoint's decoder looks at the source images or at expression coefficients too.
        """


def latent_system(system: System) -> LatentSystem:
    """The same system, if its latents alone make a head.

    Raises:
        UserError: they do not; says what to train instead.
    """
    if not isinstance(system, LatentSystem):
        raise UserError("has no latents: it cannot be animated or sampled", where=type(system).__module__)
    system.check_decoder()
    return system


def build(config: SystemConfig) -> System:
    """The system that `config.system` names, freshly initialised from torch's random state."""
    return importlib.import_module(f"models.{config.system}").Model(config)


def predict(forward: Forward, source: Views) -> Prediction:
    """Call a system (or the engine around it) on source views, for the expression that they show."""
    cameras = source.cameras
    return prediction_of(forward(source.images, cameras.world_to_camera, cameras.K, source.coefficients))


def prediction_of(tensors: Mapping[str, Tensor]) -> Prediction:
    """What `System.forward` or `LatentSystem.decode` gave, sorted."""
    return Prediction(
        foreground=_gather(tensors, "foreground"),
        background=_gather(tensors, "background") if "background.means" in tensors else None,
        extras={name: tensor for name, tensor in tensors.items() if "." not in name},
    )


def composite(prediction: Prediction, cameras: Cameras, background: Tensor | None = None) -> Composite:
    """Render a prediction for `[batch, view]` cameras.

    Rendering the person apart gives its own alpha; the background lies behind everything, so laying one over the
    other equals rendering both together.

    Args:
        prediction: what to render.
        cameras: where from.
        background: colour `[3]` shown instead of the predicted background.
    """
    person = render(prediction.foreground, cameras)
    if background is not None:
        behind = background.to(person.images)[:, None, None]
    elif prediction.background is not None:
        behind = render(prediction.background, cameras).images
    else:
        behind = torch.zeros_like(person.images)
    return Composite(person.images + (1 - person.alphas) * behind, person.alphas)


def tensors_of(gaussians: Gaussians, prefix: str) -> dict[str, Tensor]:
    """The inverse of what `predict` gathers."""
    return {f"{prefix}.{field}": getattr(gaussians, field) for field in FIELDS}


def _gather(tensors: Mapping[str, Tensor], prefix: str) -> Gaussians:
    return Gaussians(*(tensors[f"{prefix}.{field}"].float() for field in FIELDS))
