"""Systems, networks, Gaussians, the template and the rasterisers."""

from models import torchvision_shim as _torchvision_shim  # noqa: F401  before anything imports torchvision
