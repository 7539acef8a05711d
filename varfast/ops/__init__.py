"""The ops: public functions with checks; each calls a torch custom op of the same name in the namespace `varfast`."""

from varfast.ops._rows import SampleOutput as SampleOutput
from varfast.ops.dse_prior import dse_prior
from varfast.ops.filter_logits import filter_logits
from varfast.ops.gaussian_kde import gaussian_kde
from varfast.ops.guide import guide
from varfast.ops.guided_sample import guided_sample
from varfast.ops.sample import sample
from varfast.ops.select_candidate import select_candidate
from varfast.ops.smooth_embed import smooth_embed
from varfast.ops.spectral_reweight import spectral_reweight

__all__ = [
    "dse_prior",
    "filter_logits",
    "gaussian_kde",
    "guide",
    "guided_sample",
    "sample",
    "select_candidate",
    "smooth_embed",
    "spectral_reweight",
]
