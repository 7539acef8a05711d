"""varfast: guided sampling of next-scale (VAR) image generators through fused kernels."""

from varfast import ops

__version__ = "0.1.0"

__all__ = ["ops"]
