"""The neutral head mesh that anchors Gaussians, its regions, and how expressions move it."""

from models.template.expressions import ExpressionOffsets
from models.template.regions import Region, face_regions
from models.template.template import Template, TemplateMaps, load_template

__all__ = ["ExpressionOffsets", "Region", "Template", "TemplateMaps", "face_regions", "load_template"]
