"""Identity generation: a diffusion transformer over latents, and the flow that turns noise into people."""

from models.generator.model import Model

__all__ = ["Model"]
