"""A generator of people: its checkpoint, the latents that it learned, and the base that decodes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from configs import Config, UserError
from configs.objectives.generation import GenerationConfig
from data.latents import LatentSet
from data.latents.sampling import LatentSampler
from data.order import digest
from data.views import Cameras
from models.conditions.describe import Describer
from models.gaussians import Gaussians
from models.generator import Model as Generator
from models.generator.flow import Method, noise_like, sample
from models.system import LatentSystem, prediction_of
from trainer import checkpoint
from trainer.inference import load_model
from trainer.latents import open_base
from trainer.reconstruct import turntable

BATCH = 8
FACE = 64  # pixels of the frontal portraits that are compared
DISTANCE, FIELD = 1.05, 0.375  # metres: of the camera, and of what fills the image height


@dataclass(frozen=True)
class Wish:
    """Who is wanted.

    Attributes:
        prompt: words; empty for anybody.
        count: how many people.
        seed: another seed, other people.
        guidance: weight of the prompt; None takes what the checkpoint's objective says.
        steps, method: of the sampler.
    """

    prompt: str = ""
    count: int = 8
    seed: int = 0
    guidance: float | None = None
    steps: int = 40
    method: Method = "heun"


class People:
    """Makes latents, heads and portraits.

    Args:
        location: folder of the generator's checkpoint.
        latents: the set that it learned, where that has moved.
        base: the checkpoint of the base, where that has moved.

    Raises:
        UserError: no generator, another set than it learned, another base than made the latents, or one whose decoder
            looks at source images too.
    """

    def __init__(self, location: str, latents: str | None = None, base: str | None = None) -> None:
        self.generator, self.config = load_generator(location)
        self.learned = LatentSet.open(latents or self.config.data.train)
        try:
            _check_learned(self.learned, self.config, location)
            self.base = load_base(self.learned, base)
        except BaseException:
            self.learned.close()
            raise
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.generator.to(self.device)
        self.base.to(self.device)
        self.describer = Describer(self.generator.config, self.device)

    def __enter__(self) -> People:
        return self

    def __exit__(self, *_: object) -> None:
        self.learned.close()

    def guidance(self, wish: Wish) -> float:
        """Of a wish, or what the checkpoint's objective takes."""
        objective = self.config.objective
        usual = objective.guidance if isinstance(objective, GenerationConfig) else 1.0
        return usual if wish.guidance is None else wish.guidance

    @property
    def shift(self) -> float:
        """Of the sampler's steps, as the checkpoint was trained."""
        objective = self.config.objective
        return objective.shift if isinstance(objective, GenerationConfig) else 1.0

    def make(self, wish: Wish, progress: Callable[[int, int], None] = lambda done, total: None) -> Tensor:
        """Whitened latents `[count, c, h, w]`: a function of the weights, the prompt and the seed.

        Person i of a seed is the same however many are made.
        """
        made = []
        for first in range(0, wish.count, BATCH):
            seeds = [digest("person", wish.seed, i) for i in range(first, min(first + BATCH, wish.count))]
            made.append(
                sample(
                    self.generator,
                    noise_like(self.generator.config.latent, seeds).to(self.device),
                    self.describer.prompt(wish.prompt, len(seeds)),
                    steps=wish.steps,
                    guidance=self.guidance(wish),
                    method=wish.method,
                    shift=self.shift,
                )
            )
            progress(first + len(seeds), wish.count)
        return torch.cat(made).cpu()

    @torch.no_grad()
    def heads(self, whitened: Tensor) -> Gaussians:
        """`[n]` heads of whitened latents `[n, c, h, w]`, by the frozen decoder; on the CPU."""
        decoded = self.base.decode(self.learned.unwhiten(whitened).to(self.device))
        return prediction_of(decoded).foreground.map(Tensor.cpu)

    def faces(self, whitened: Tensor) -> Tensor:
        """Frontal portraits `[n, 3, FACE, FACE]` on white."""
        heads = self.heads(whitened)
        return torch.cat([portraits(heads[i : i + 1], FACE, frames=1) for i in range(len(whitened))])


def load_generator(location: str) -> tuple[Generator, Config]:
    """The generator of a checkpoint, with its averaged weights where the run kept some.

    Raises:
        UserError: no checkpoint, or one of something else.
    """
    system, config = load_model(location)
    if not isinstance(system, Generator):
        hint = "`headway train headsup-nano-generation` trains one on latents of a base"
        raise UserError(f"is a checkpoint of {config.model.system}, not of a generator", where=location, hint=hint)
    return system, config


def load_base(latents: LatentSet, location: str | None = None) -> LatentSystem:
    """The model that made some latents, to decode others.

    Raises:
        UserError: it is not there, has other weights than made the latents, or does not decode latents alone.
    """
    place = location or latents.info.base.checkpoint
    try:
        return open_base(place, latents.info.base.weights).system
    except UserError as error:
        hint = f"{latents.url} names this base; --base takes the place where it is now"
        raise UserError(error.what, where=error.where, hint=error.hint if location else hint) from None


def portraits(head: Gaussians, height: int, frames: int = 4) -> Tensor:
    """`[1]` head on white `[frames, 3, h, h]`: from the front; with 4, the second and fourth from either side."""
    pose = torch.eye(4)
    pose[2, 3] = DISTANCE
    focal = height * DISTANCE / FIELD
    K = torch.tensor([[focal, 0, height / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return turntable(head, Cameras(pose[None, None], K[None, None], height, height), frames, height).clamp(0, 1)


def _check_learned(learned: LatentSet, config: Config, location: str) -> None:
    shape = tuple(config.model.model_dump()["latent"])
    if learned.shape != shape:
        found = f"latents of shape {list(learned.shape)}, the generator makes {list(shape)}"
        raise UserError(f"holds {found}", where=learned.url)
    expected = checkpoint.describe(location).state.get("dataset")
    if not config.data.mixture and expected != LatentSampler([learned], config.data, config.run.seed).fingerprint:
        raise UserError(
            "these are not the latents that the generator learned",
            where=learned.url,
            hint=f"--latents takes the place of those of {config.data.train} now",
        )
