"""Methods against each other: draws their images, has them judged, keeps every run and makes a table of all."""

from varfast.evaluation.report import Report, Setting
from varfast.evaluation.runs import Experiment

__all__ = ["Experiment", "Report", "Setting"]
