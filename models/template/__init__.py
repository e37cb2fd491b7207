"""The neutral head mesh that anchors Gaussians."""

from models.template.template import Template, TemplateMaps, load_template

__all__ = ["Template", "TemplateMaps", "load_template"]
