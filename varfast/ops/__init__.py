"""The ops: public functions with checks; each calls a torch custom op of the same name in the namespace `varfast`."""

from varfast.ops.dse_prior import dse_prior
from varfast.ops.guide import guide
from varfast.ops.guided_sample import guided_sample
from varfast.ops.sample import sample

__all__ = ["dse_prior", "guide", "guided_sample", "sample"]
