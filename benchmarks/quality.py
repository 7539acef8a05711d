"""Quality on the built-in model along the axis that each method opens: VAR-Scaling's number of candidates, DiverseVAR's
strength of suppression, with and without amplification. Mean and spread over paired seeds, as a picture and JSON.

    python benchmarks/quality.py var-scaling
    python benchmarks/quality.py diverse-var
"""

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import _harness
import matplotlib
import typer

from varfast import DiverseVAR, Sampler, VARScaling
from varfast.builtin.judge import Judge
from varfast.console import progress
from varfast.evaluation.report import Experiment, Report, Setting
from varfast.models import load, weights_sha256

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
app = typer.Typer(no_args_is_help=True, add_completion=False)
ImagesOption = Annotated[int, typer.Option("--images", "-n", help="Images per setting and seed.")]
SeedsOption = Annotated[int, typer.Option(help="Paired seeds.")]
WorkOption = Annotated[Path, typer.Option(help="Where finished runs are kept, so that an interrupted one goes on.")]

CANDIDATES = (10, 50, 200, 1000)
EXACT = 200  # candidates drawn where the density is exact: their number no longer shapes it
STRENGTHS = (0.1, 0.3, 1.0)
# Amplification at the output that undoes about half of what suppression at the input does to the largest value.
AMPLIFY = 0.05


def measure(
    settings: dict[str, list[object]], images: int, seeds: int, work: Path
) -> dict[str, dict[str, list[float]]]:
    """Draws and judges what is not yet in the folder."""
    work.mkdir(parents=True, exist_ok=True)
    model = load()
    weights = weights_sha256()
    experiment = Experiment(model, weights, work, images=images, batch=50, judge=Judge())
    rows = [
        Setting(name, f"cfg=1; {guidance!r}", partial(Sampler, guidance=guidance, cfg=1.0))
        for name, guidance in settings.items()
    ]
    with progress() as bar:
        task = bar.add_task("images", total=images * len(rows) * seeds)
        report = Report(experiment, lambda count: bar.update(task, advance=count))
        report.add(rows, range(seeds))
    return {row["title"]: row["metrics"] for row in report.rows}


def keep(name: str, found: dict[str, Any], images: int, figure: Any) -> None:
    """Writes the JSON and the picture under benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    data = {"images": images, "cfg": 1.0, "metrics": found}
    _harness.write(RESULTS / f"{name}.json", json.dumps(data, indent=1))
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}.png", dpi=130)
    print(f"written: {RESULTS / name}.json, .png")


def spread(values: list[float]) -> float:
    """Standard deviation over seeds."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def band(axes: Any, x: list[float], runs: list[list[float]], label: str, color: str) -> None:
    """A line through the means and the range of one standard deviation."""
    mean = [statistics.mean(values) for values in runs]
    axes.errorbar(
        x,
        mean,
        yerr=[spread(values) for values in runs],
        label=label,
        color=color,
        marker="o",
        markersize=4,
        capsize=3,
        linewidth=1.3,
    )


@app.command("var-scaling")
def var_scaling(images: ImagesOption = 500, seeds: SeedsOption = 3, work: WorkOption = Path("evaluation")) -> None:
    """Quality against the number of candidates, from one to the exact limit."""
    rule: dict[str, Any] = {"scales": 1, "alpha": 1.7, "min_distance": 0.75}
    settings: dict[str, list[object]] = {"1": []}
    settings |= {str(n): [VARScaling(candidates=n, **rule)] for n in CANDIDATES}
    settings["exact"] = [VARScaling(candidates=EXACT, density="exact", **rule)]
    found = measure(settings, images, seeds, work)
    panels = {"fd": "Fréchet distance ↓", "accuracy": "accuracy ↑", "precision": "precision ↑", "recall": "recall ↑"}
    figure, grid = plt.subplots(1, len(panels), figsize=(13, 3.2))
    for axes, (metric, title) in zip(grid, panels.items(), strict=True):
        band(axes, list(range(len(settings))), [found[name][metric] for name in settings], "", "#0b6e99")
        axes.set_xticks(range(len(settings)), list(settings), fontsize=8)
        axes.set_xlabel("candidates N", fontsize=9)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    keep("quality_var_scaling", found, images, figure)


@app.command("diverse-var")
def diverse_var(images: ImagesOption = 500, seeds: SeedsOption = 3, work: WorkOption = Path("evaluation")) -> None:
    """Diversity against fidelity as suppression grows, with and without amplification at the output."""
    settings: dict[str, list[object]] = {"plain": []}
    for beta in STRENGTHS:
        settings[f"suppress {beta}"] = [DiverseVAR((1, 2), (1.0, beta), relative=True, where="ends")]
        settings[f"suppress {beta}, amplify"] = [
            DiverseVAR((1, 2), (1.0, beta), (1.0, AMPLIFY), relative=True, where="ends")
        ]
    found = measure(settings, images, seeds, work)
    pairs = (("precision", "recall"), ("accuracy", "variance"), ("fd", "coverage"))
    # The variance, over that of the test images, is the mean squared distance of pairs, over theirs.
    names = {"fd": "Fréchet distance", "variance": "squared feature distance of pairs in a class"}
    figure, grid = plt.subplots(1, len(pairs), figsize=(13, 3.8))
    for axes, (fidelity, diversity) in zip(grid, pairs, strict=True):
        for suffix, color, label in (("", "#0b6e99", "suppression"), (", amplify", "#c05a12", "with amplification")):
            titles = ["plain", *(f"suppress {beta}{suffix}" for beta in STRENGTHS)]
            x, y = ([statistics.mean(found[t][metric]) for t in titles] for metric in (fidelity, diversity))
            dx, dy = (
                [statistics.stdev(found[t][m]) if seeds > 1 else 0.0 for t in titles] for m in (fidelity, diversity)
            )
            axes.errorbar(x, y, xerr=dx, yerr=dy, color=color, label=label, marker="o", markersize=4, linewidth=1.2)
            for at, title in enumerate(titles):
                axes.annotate(title.split()[-1] if at == 0 else str(STRENGTHS[at - 1]), (x[at], y[at]), fontsize=6)
        axes.set_xlabel(names.get(fidelity, fidelity), fontsize=9)
        axes.set_ylabel(names.get(diversity, diversity), fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].legend(fontsize=7, frameon=False)
    keep("quality_diverse_var", found, images, figure)


if __name__ == "__main__":
    app()
