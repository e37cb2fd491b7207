"""Everything that can be set: one typed schema, YAML presets, readable errors."""

from configs.errors import UserError, nearest
from configs.load import dump_config, flatten, load_config, parse_config, presets
from configs.schema import Config

__all__ = ["Config", "UserError", "dump_config", "flatten", "load_config", "nearest", "parse_config", "presets"]
