"""Critics that any objective may train a system against (docs/critics.md)."""

from models.critics.image import ImageCritic

__all__ = ["ImageCritic"]
