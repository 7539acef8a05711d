"""Networks of other packages, which come with the extra `eval`.

Source: https://github.com/toshas/torch-fidelity and https://github.com/huggingface/transformers.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import torch

from varfast._extras import needs


def feature_extractor() -> Any:
    """torch-fidelity's port of Inception, the class. Raises ImportError, saying how to get it."""
    _let_torchvision_in()
    with needs("eval", "judging by Inception"):
        from torch_fidelity import FeatureExtractorInceptionV3
    return FeatureExtractorInceptionV3


def clip() -> tuple[Any, Any]:
    """CLIP of transformers: the classes of its model and processor. Raises ImportError, saying how to get them."""
    _let_torchvision_in()
    with needs("eval", "CLIP score"):
        from transformers import CLIPModel, CLIPProcessor
    return CLIPModel, CLIPProcessor


def _let_torchvision_in() -> None:
    """Both packages import torchvision, and use none of its own operators here.

    A torchvision built for CUDA beside a torch that is not, which is what PyPI's one is for a CPU torch, cannot load
    its operators. It says so where one is called; but of two, nms and qnms, it tells torch more at import, and that
    raises. With a signature of theirs there, the import succeeds.
    """
    for _ in range(3):
        try:
            importlib.import_module("torchvision")
            return
        except ImportError:
            return  # whoever needs it says so
        except RuntimeError as error:
            if not (found := re.search(r"operator (torchvision::q?nms) does not exist", str(error))):
                raise
            torch.library.define(found[1], "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
