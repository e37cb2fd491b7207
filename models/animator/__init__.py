"""Neutral latent and blendshape coefficients to the latent of the same person with that expression."""

from models.animator.model import Model

__all__ = ["Model"]
