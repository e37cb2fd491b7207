"""Synthetic captures: people that do not exist, photographed in a studio that does not either."""

from data.synth.captures import synthesise_subject
from data.synth.dataset import synthesise
from data.synth.head import neutral_head

__all__ = ["neutral_head", "synthesise", "synthesise_subject"]
