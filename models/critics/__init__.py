"""Critics that any objective may train a system against (docs/critics.md)."""

from models.critics.image import ImageCritic
from models.critics.views import SetCritic

__all__ = ["ImageCritic", "SetCritic"]
