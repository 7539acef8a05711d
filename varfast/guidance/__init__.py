"""What each paper defines, as small objects built on the ops."""

from varfast.guidance.cfg import CFG
from varfast.guidance.diverse_var import DiverseVAR
from varfast.guidance.ssg import SSG
from varfast.guidance.var_scaling import VARScaling

__all__ = ["CFG", "SSG", "DiverseVAR", "VARScaling"]
