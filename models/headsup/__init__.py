"""HeadsUp: multi-view images to UV Gaussians on a neutral template."""

from models.headsup.model import Model

__all__ = ["Model"]
