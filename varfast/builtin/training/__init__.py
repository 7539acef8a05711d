"""Training of the built-in model and of the classifier that judges it.

In order: `train_classifier`, `train_tokenizer`, `train_transformer` on its tokens, `train_decoder`, then the exports;
`train` does it all.
"""

from varfast.builtin.training.classifier import train_classifier
from varfast.builtin.training.decoder import train_decoder
from varfast.builtin.training.export import export_builtin, export_classifier
from varfast.builtin.training.recipe import STAGES, train, trained_vae, trained_var
from varfast.builtin.training.tokenizer import train_tokenizer
from varfast.builtin.training.transformer import train_transformer

__all__ = [
    "STAGES",
    "export_builtin",
    "export_classifier",
    "train",
    "train_classifier",
    "train_decoder",
    "train_tokenizer",
    "train_transformer",
    "trained_vae",
    "trained_var",
]
