"""Published settings of each method for each host, and ours for the built-in model, with the source of every number.

::

    preset = varfast.presets.get("infinity-2b", "var_scaling")
    sampler = varfast.Sampler(model, [preset.guidance])
    preset.sources["candidates"]                         # where the 3000 is from
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from varfast.guidance import SSG, DiverseVAR, VARScaling

HOSTS = (
    "builtin", "var-d16", "var-d20", "var-d24", "var-d30", "var-d36", "flexvar", "hart", "infinity-2b", "infinity-8b",
    "code", "hmar-d16", "hmar-d20", "hmar-d24", "hmar-d30",
)  # fmt: skip
METHODS = ("ssg", "var_scaling", "diverse_var", "sampling")
_KINDS: dict[str, type] = {"ssg": SSG, "var_scaling": VARScaling, "diverse_var": DiverseVAR}
_VAR = ("var-d16", "var-d20", "var-d24", "var-d30")  # of 256 pixels
_HMAR = HOSTS[-4:]

_OURS = "ours, README.md's table: `varfast eval --count 5000 --seeds 3 --method"
_LEAD = (
    "ours, 2,000 images and two seeds: distance 0.62 and 0.61, without 0.71 and 0.73; the smallest of the raw settings "
    'tried: `varfast eval --count 2000 --seeds 2 --method "diverse_var(suppress=(1.0, 0.002), '
    "sides=(4, 6), where='blocks', relative=False)\"`"
)
_PAPER = "arXiv 2511.17074: scales 4 and 6, input and output feature maps, in all blocks"
_SEARCH = "VAR-Scaling at b7a0930, VAR-main/models/var.py, autoregressive_infer_cfg:"
_BITS = "VAR-Scaling at b7a0930, Infinity-main/infinity/models/infinity.py, autoregressive_infer_cfg:"
_CODE_SCRIPTS = "CoDe at bfb204d, its sampling scripts"
Numbers = dict[str, tuple[Any, str]]  # a setting's value and its source

_VAR_SCALING: Numbers = {
    "scales": (1, f"{_SEARCH} scaling_scale"),
    "candidates": (50, "VAR-Scaling at b7a0930, VAR-main/run.py and README.md (the function's own default is 20)"),
    "rule": ("var", f"{_SEARCH} greedy search by distance, then a draw in proportion to density"),
    "alpha": (2.3, f"{_SEARCH} scaling_alpha"),
    "keep": (10, f"{_SEARCH} scaling_rep_num"),
    "min_distance": (1.8, f"{_SEARCH} conflict_thresh"),
    "bandwidth": ("silverman-batch", f"{_SEARCH} one bandwidth a position, averaged over the batch"),
    "nucleus": ("shrinking", f"{_SEARCH} every draw filters in place what the one before left"),
}
_VAR_SAMPLING: Numbers = {
    name: (value, "VAR at 78b9539, README.md, Sampling & Zero-shot Inference: what FID is evaluated with")
    for name, value in {"cfg": 1.5, "top_k": 900, "top_p": 0.96, "more_smooth": False}.items()
}

_TABLE: dict[tuple[str, str], Numbers] = {
    ("builtin", "sampling"): {"cfg": (1.0, f"{_OURS} plain`")},
    ("builtin", "ssg"): {
        name: (value, f"{_OURS} \"ssg(beta=0.4, schedule='constant', scales=-1)\"`")
        for name, value in {"beta": 0.4, "schedule": "constant", "scales": -1}.items()
    },
    ("builtin", "var_scaling"): {
        "scales": (1, f'{_OURS} "var_scaling(scales=1)"`'),
        "candidates": (50, f'{_OURS} "var_scaling(candidates=50)"`'),
        "alpha": (1.7, f"{_OURS} var_scaling`; proposed by varfast.calibrate"),
        "min_distance": (0.75, f"{_OURS} var_scaling`; proposed by varfast.calibrate"),
    },
    ("builtin", "diverse_var"): {
        "sides": ((4, 6), _PAPER),
        "where": ("blocks", _PAPER),
        "relative": (False, "arXiv 2511.17074: sigma in its formulas is the map's own"),
        "suppress": ((1.0, 0.002), _LEAD),
    },
    **{(host, "var_scaling"): _VAR_SCALING for host in _VAR},
    **{(host, "sampling"): _VAR_SAMPLING for host in (*_VAR, "var-d36")},
    ("infinity-2b", "var_scaling"): {
        "scales": (3, f"{_BITS} scaling_layer_idx, the 6x6 map"),
        "candidates": (3000, f"{_BITS} scaling_num_samples"),
        "rule": ("infinity", f"{_BITS} sort by density, a draw among the first"),
        "top": (100, f"{_BITS} k = min(100, N), weights linspace(k, 1, k)"),
        "bandwidth": ("silverman-batch", f"{_BITS} one bandwidth a token, averaged over the batch"),
    },
    ("infinity-2b", "sampling"): {
        "cfg": (4.0, "Infinity at 4c27bbb, scripts/infer.sh:12; s of s cond + (1 - s) uncond, at every scale"),
        "tau": (0.5, "Infinity at 4c27bbb, scripts/infer.sh:13"),
        "top_k": (900, "Infinity at 4c27bbb, tools/run_infinity.py, gen_one_img"),
        "top_p": (0.97, "Infinity at 4c27bbb, tools/run_infinity.py, gen_one_img"),
    },
    ("flexvar", "sampling"): {
        "cfg": (2.5, "FlexVAR at 04462cb, README.md, Evaluation, 256x256; varfast.hosts.flexvar.strengths(2.5, sides)"),
        "top_k": (900, "FlexVAR at 04462cb, README.md, Evaluation; varfast.hosts.flexvar.top_ks(900, sides)"),
        "top_p": (0.95, "FlexVAR at 04462cb, eval_c2i.py, the call of autoregressive_infer_cfg"),
    },
    ("hart", "sampling"): {
        "cfg": (4.5, "HART at e28a41f, sample.py, --cfg; varfast.hosts.hart.strengths(4.5, scales)"),
        "more_smooth": (True, "HART at e28a41f, sample.py, --more_smooth"),
        "top_p": (0.0, "HART at e28a41f, autoregressive_infer_cfg's default, which sample.py leaves"),
        "top_k": ((600, 300), "HART at e28a41f, hart_transformer_t2i.py: 600 at the first seven scales, then 300"),
    },
    ("code", "sampling"): {
        "drafted": (8, _CODE_SCRIPTS),
        "top_k": (600, _CODE_SCRIPTS),
        "temperature": ((1.1,) * 7 + (1.0,) * 3, _CODE_SCRIPTS),
        "temperature_last": (True, "CoDe at bfb204d: logits are divided after the filters"),
    },
    **{
        (host, "sampling"): {
            "cfg": (cfg, f"HMAR at 595a9df, its configuration of {host[5:]}"),
            "top_k": (top_k, f"HMAR at 595a9df, its configuration of {host[5:]}"),
        }
        for host, cfg, top_k in zip(_HMAR, (1.7, 1.9, 2.1, 1.7), (1000, 950, 900, 1000), strict=True)
    },
}
_TABLE["hmar-d16", "sampling"] = _TABLE["hmar-d16", "sampling"] | {
    "top_p": (0.99, "HMAR at 595a9df, its configuration of d16")
}

# How the host drew where a method's settings are from.
_WITH: dict[tuple[str, str], Numbers] = {
    **{
        (host, "var_scaling"): {
            name: (value, "VAR-Scaling at b7a0930, VAR-main/run.py")
            for name, value in {"cfg": 1.0, "top_k": 900, "top_p": 0.96}.items()
        }
        for host in _VAR
    },
    ("infinity-2b", "var_scaling"): {
        name: (value, "VAR-Scaling at b7a0930, Infinity-main/scripts/eval.sh")
        for name, value in {"cfg": 4.0, "tau": 1.0}.items()
    },
    ("builtin", "diverse_var"): {"cfg": (1.0, _LEAD)},
    **{("builtin", method): {"cfg": (1.0, f"{_OURS} {method}`")} for method in ("ssg", "var_scaling")},
}

# What is known of a method beyond a host's own row, for the error that says there is none.
_SSG = (
    "arXiv 2602.05534 asks for a strength that decays over the scales and publishes no number; its code was not "
    "released by November 2026"
)
_SSG_RESULTS = {
    "var-d16": "FID 3.42 to 3.27", "var-d20": "FID 2.67 to 2.49", "var-d24": "FID 2.39 to 2.20",
    "var-d30": "FID 2.02 to 1.68, IS 302.9 to 313.2", "var-d36": "FID 11.5 % lower at 512 pixels",
    "hart": "evaluated on MJHQ-30K", "infinity-2b": "Infinity was evaluated on MJHQ-30K",
}  # fmt: skip
_DIVERSE = {
    host: "arXiv 2511.17074 evaluates it with sides (4, 6), in all blocks, input and output, raw units; alpha and beta "
    f"are in no public text, its code was not released by November 2026 (COCO2014-30K: recall {recall}, FID {fid})"
    for host, recall, fid in (
        ("infinity-2b", "0.316 to 0.385", "28.48 to 22.96"), ("infinity-8b", "0.451 to 0.497", "18.79 to 14.26")
    )
}  # fmt: skip
_SCALING = {
    "flexvar": "arXiv 2601.07293 reports IS 6.3 % higher; its constants and code for FlexVAR are not released",
    "infinity-8b": "the released code (see infinity-2b) names no 8B model",
    "var-d36": "the released code (see var-d30) is for 256 pixels",
}


@dataclass(frozen=True)
class Preset:
    """Settings of a method for a host.

    Attributes:
        host, method: as asked for.
        settings: arguments of the method's class; of "sampling", arguments of the host's own inference method.
        sampling: arguments of the host's own method with which these settings were used.
        sources: of every number: a file of the released code at a commit, the paper, or our measurement with its
            command.
    """

    host: str
    method: str
    settings: Mapping[str, Any]
    sampling: Mapping[str, Any]
    sources: Mapping[str, str]

    @property
    def guidance(self) -> SSG | VARScaling | DiverseVAR:
        """The guidance object. Raises ValueError for "sampling", which has none."""
        if self.method not in _KINDS:
            raise ValueError(f"guidance: {self.method} is no guidance object; settings are the host's own arguments")
        return _KINDS[self.method](**self.settings)


def get(host: str, method: str) -> Preset:
    """The published settings of a method for a host; of "builtin", ours.

    Args:
        host: one of `HOSTS`.
        method: "ssg", "var_scaling", "diverse_var", or "sampling": how the host itself draws where it is evaluated.

    Returns:
        The preset.

    Raises:
        ValueError: another name. LookupError: nothing is published; the message says what is known.
    """
    for name, value, known in (("host", host, HOSTS), ("method", method, METHODS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    numbers = _TABLE.get((host, method))
    if numbers is None:
        raise LookupError(f"no published settings of {method} for {host}: {_known(host, method)}")
    beside = _WITH.get((host, method), {})
    settings, sampling = ({name: value for name, (value, _) in part.items()} for part in (numbers, beside))
    return Preset(host, method, settings, sampling, {name: source for name, (_, source) in (numbers | beside).items()})


def _known(host: str, method: str) -> str:
    if method == "ssg":
        result = f"; there it is {_SSG_RESULTS[host]}" if host in _SSG_RESULTS else "; it is not evaluated there"
        return f"{_SSG}{result}. Measure: `varfast eval`"
    if method == "diverse_var":
        known = _DIVERSE.get(host, "arXiv 2511.17074 evaluates Infinity alone, at sides (4, 6) in all blocks")
        return f"{known}. varfast.calibrate measures a model's singular values and proposes"
    if method == "var_scaling":
        known = _SCALING.get(host, "arXiv 2601.07293 evaluates VAR, FlexVAR and Infinity")
        return f"{known}. varfast.calibrate proposes alpha and min_distance"
    return "none is known"
