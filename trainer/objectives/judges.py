"""How each kind of critic looks at a batch: what it calls real, what false, and what it tells the system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from configs.objectives.adversarial import CriticTraining, ImageCriticTraining, SetCriticTraining
from data.order import digest
from data.views import Batch, Cameras
from models.critics import ImageCritic, SetCritic, crops, losses, sets
from trainer.objectives.base import Losses

_OF_CRITIC = {"logistic": losses.critic_logistic, "hinge": losses.critic_hinge}
_OF_SYSTEM = {"logistic": losses.generator_logistic, "hinge": losses.generator_hinge}


class Judge(ABC):
    """A critic with its settings.

    Everything random is drawn for one capture from its name and `key`, so that it does not depend on the ranks.

    Args:
        config: how it is trained.
        module: the critic; weights whole on every rank.
    """

    def __init__(self, config: CriticTraining, module: nn.Module) -> None:
        self.config, self.module = config, module

    def reward(self, made: Tensor, batch: Batch, key: int) -> Tensor:
        """What the system loses by this critic's verdict; no gradient reaches the critic.

        Args:
            made: `[b, v, 3, h, w]` rendered at the target cameras, with a graph.
            batch: what it should look like.
            key: names this step.
        """
        with _frozen(self.module):
            return _OF_SYSTEM[self.config.loss](self(*self.look(made, batch, key)))

    def losses(self, made: Tensor, batch: Batch, key: int, update: int) -> Losses:
        """The critic's own.

        Args:
            made: as in `reward`, without a graph.
            batch: the real views.
            key: names this update.
            update: how many it has had; the penalty is due on every `penalty_every`-th.
        """
        images, cameras = self.look(batch.target.images, batch, key)
        real = self(images, cameras)
        total, terms = self.verdict(real, made, batch, key)
        if self.config.penalty != "none" and update % self.config.penalty_every == 0:
            penalty = self._penalty(images, cameras, made, batch, key)
            terms["penalty"] = penalty.detach()
            total = total + penalty * self.config.penalty_every * self._strength
        return Losses(total, terms | {"real": real.detach().mean()})

    def __call__(self, images: Tensor, cameras: Cameras | None) -> Tensor:
        """Logits, under autocast where the critic's weights are bf16."""
        with self._precision(images.device):
            return self.module(images, cameras)

    @abstractmethod
    def look(self, images: Tensor, batch: Batch, key: int) -> tuple[Tensor, Cameras | None]:
        """What the critic is shown of `[b, v, 3, h, w]` images at the target cameras."""

    @abstractmethod
    def verdict(self, real: Tensor, made: Tensor, batch: Batch, key: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of calling real things real and false ones false, and the mean logits of the false ones."""

    @property
    def _strength(self) -> float:
        half = 0.5 if self.config.penalty == "r1" else 1.0
        return half * self.config.penalty_weight

    def _penalty(self, images: Tensor, cameras: Cameras | None, made: Tensor, batch: Batch, key: int) -> Tensor:
        if self.config.penalty == "r1":
            return losses.r1(self, images, cameras)
        false, _ = self.look(made, batch, key)
        return losses.gradient_penalty(self, images, false, _generator(images.device, "penalty", key), cameras)

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        if next(self.module.parameters()).dtype != torch.bfloat16:
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)


class ImageJudge(Judge):
    """Single views, whole or in crops."""

    def __init__(self, config: ImageCriticTraining) -> None:
        super().__init__(config, ImageCritic(config.network))
        self.network = config.network

    def look(self, images: Tensor, batch: Batch, key: int) -> tuple[Tensor, Cameras | None]:
        """`[b * v, 3, h, w]` and, if the critic asks for them, `[b * v]` cameras."""
        cameras = batch.target.cameras.map(lambda tensor: tensor.flatten(0, 1)) if self.network.camera else None
        flat, side = images.flatten(0, 1), self.network.patch
        if side is None:
            return flat, cameras
        views, size = images.shape[1], (images.shape[-2], images.shape[-1])
        corners = torch.cat(
            [crops.draw_corners(views, size, side, _generator(images.device, name, key)) for name in batch.names]
        )
        seen = None if cameras is None else crops.crop_cameras(cameras, corners, side)
        return crops.crop(flat, corners, side), seen

    def verdict(self, real: Tensor, made: Tensor, batch: Batch, key: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Rendered views are false."""
        false = self(*self.look(made, batch, key))
        return _OF_CRITIC[self.config.loss](real, false), {"made": false.detach().mean()}


class SetJudge(Judge):
    """All target views of a capture together."""

    def __init__(self, config: SetCriticTraining) -> None:
        super().__init__(config, SetCritic(config.network))
        self.settings = config

    def look(self, images: Tensor, batch: Batch, key: int) -> tuple[Tensor, Cameras | None]:
        """As they are."""
        return images, batch.target.cameras

    def verdict(self, real: Tensor, made: Tensor, batch: Batch, key: int) -> tuple[Tensor, dict[str, Tensor]]:
        """False are rendered sets, mixed heads of this micro-batch, and the hard ones, half of each kind.

        Cameras that are off could be told by how the cameras of a rig stand; what is swapped keeps the true ones.
        """
        images, cameras = batch.target.images, batch.target.cameras
        false: dict[str, tuple[float, Tensor]] = {"made": (1.0, self(made, cameras))}
        if self.settings.mixed and len(images) > 1:
            false["mixed"] = (self.settings.mixed, self(*sets.mixed_heads(images, cameras)))
        if self.settings.hard:
            half = self.settings.hard / 2
            false["hard"] = (half, self(images, self._wrong(cameras, batch.names, key)))
            false["swapped"] = (half, self(self._swapped(images, made, batch.names, key), cameras))
        loss = _OF_CRITIC[self.config.loss]
        whole = sum(weight for weight, _ in false.values())
        total = torch.stack([weight / whole * loss(real, logits) for weight, logits in false.values()]).sum()
        return total, {name: logits.detach().mean() for name, (_, logits) in false.items()}

    def _swapped(self, images: Tensor, made: Tensor, names: Sequence[str], key: int) -> Tensor:
        """Every capture's photos, some of them replaced by what was rendered at the same camera."""
        device = images.device
        return torch.cat(
            [
                sets.swapped_views(images[i : i + 1], made[i : i + 1], _generator(device, "swapped", name, key))[0]
                for i, name in enumerate(names)
            ]
        )

    def _wrong(self, cameras: Cameras, names: Sequence[str], key: int) -> Cameras:
        """Every capture's cameras, moved by what is drawn for it."""
        degrees, metres = self.settings.hard_degrees, self.settings.hard_metres
        device = cameras.K.device
        moved = [
            sets.perturbed_cameras(cameras[i], _generator(device, name, key), degrees, metres).world_to_camera
            for i, name in enumerate(names)
        ]
        return Cameras(torch.stack(moved), cameras.K, cameras.width, cameras.height)


def _generator(device: torch.device, *parts: object) -> torch.Generator:
    return torch.Generator(device).manual_seed(digest("critic", *parts) % 2**63)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Nothing that is computed inside will leave a gradient in `module`."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
