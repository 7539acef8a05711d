"""Methods against each other: draws their images, has them judged, keeps every run and makes a table of all."""

from varfast.evaluation.report import Experiment, Report, Setting

__all__ = ["Experiment", "Report", "Setting"]
