"""varfast: guided sampling of next-scale (VAR) image generators through fused kernels."""

from varfast import ops
from varfast.guidance import CFG, SSG, DiverseVAR, VARScaling
from varfast.hosts import patch, unpatch, wrap
from varfast.sampler import Sampler

__version__ = "0.1.0"

__all__ = ["CFG", "SSG", "DiverseVAR", "Sampler", "VARScaling", "ops", "patch", "unpatch", "wrap"]
