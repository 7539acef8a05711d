"""A small call of every op, for tools that slow programs down: `python tests/small_set.py [device]`."""

import sys

import torch
from device_cases import CASES, Case, expected, hold, move, outputs
from schedules import F32, INFINITY, Setting, Step, pairs
from step_calls import arguments, shape_of

DONE = "small set: done"
NAMES = (
    "sample-adversarial", "filter_logits-31",
    "dse_prior-2", "guide-cfg", "guide-4", "guided_sample-0", "guided_sample-1", "smooth_embed-1",
    "gaussian_kde-floats-32", "gaussian_kde-bits-45-log", "gaussian_kde-ids-8", "sigma-floats-32", "select-var-50",
    "select-infinity-3000", "spectral-4x64", "spectral-70x33",
)  # fmt: skip
# Every tenth step of a host whose maps are small.
STEPS = [Step(*grids, Setting(16, 2, F32)) for grids in pairs(INFINITY)[::10]]


def run(device: str) -> None:
    for name in NAMES:
        case = CASES[name]
        hold(case, getattr(torch.ops.varfast, case.op)(*move(case.make(0), device)), expected(case))
    for step in STEPS:
        for op in ("dse_prior", "guide", "guided_sample"):
            call, function = arguments(op, shape_of(step)), getattr(torch.ops.varfast, op)
            hold(Case(op, lambda seed: (), exact=True), function(*move(call, device)), outputs(function(*call)))
    print(DONE, flush=True)


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else "cuda")
