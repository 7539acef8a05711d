"""Training of the built-in model and of the classifier that judges it."""

from varfast.training.classifier import train_classifier
from varfast.training.export import export_builtin, export_classifier
from varfast.training.tokenizer import train_tokenizer
from varfast.training.transformer import train_transformer

__all__ = ["export_builtin", "export_classifier", "train_classifier", "train_tokenizer", "train_transformer"]
