"""The next-scale loop, once, for every model.

==============  =====================================================================================================
``plan``        all that is known before an image's first scale: steps, recipes, hooks, the side of the head to guide
``step``        one scale: features become tokens
``loop``        `Sampler`: the scales in order, as the papers write them
``arguments``   checks of what a sampler is given
==============  =====================================================================================================
"""

from varfast.sampler.loop import Sampler

__all__ = ["Sampler"]
