"""The bars of the GPU kernels, each beside what it is measured against in the same run; JSON and a table.

`python benchmarks/gpu.py` on a GPU; `--device cpu --tiny --out FOLDER` goes through the same lines anywhere. A bar that
is missed is said to be; the exit status is 1 where one could not be measured because something failed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent))

import _harness
import peers

from benchmarks import bench_gaussian_kde, bench_select_candidate, bench_spectral_reweight
from varfast import ops

T, BETA, TOP_K, TOP_P = 1.5, 0.5, 900, 0.96
LANES = {(8, 0): 64}  # float32 fused multiply-adds of a multiprocessor and cycle; 128 on all later ones


@dataclass(frozen=True)
class Bar:
    """`value` None: not measured, for the reason in `note`."""

    what: str
    value: float | None
    unit: str
    bar: float
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar


class Bench:
    """Times functions on one device, within a number of seconds."""

    def __init__(self, device: str, tiny: bool, seconds: float) -> None:
        self.device, self.tiny, self.deadline = device, tiny, time.monotonic() + seconds
        self.gpu = device != "cpu"
        self.times: dict[str, float] = {}
        cells = 2**16 if tiny else 2**28  # 1 GiB: far beyond any cache
        source = torch.ones(cells, device=device)
        target = torch.empty_like(source)
        self.bandwidth = 8 * cells / self.time("copy of 1 GiB", lambda: target.copy_(source))

    def left(self, seconds: float) -> bool:
        return self.deadline - time.monotonic() > seconds

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, device=self.device).to(dtype)

    def time(self, name: str, function: Callable[[], object], graph: bool = False) -> float:
        """Median seconds of a call; `graph`: of one among ten in a CUDA graph, for what is shorter than its launch."""
        function()
        function()
        calls = 1
        if graph and self.gpu:
            calls, captured = 10, torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(captured):
                for _ in range(calls):
                    function()
            function = captured.replay
            function()
        times: list[float] = []
        spent = time.monotonic()
        while len(times) < 3 or (time.monotonic() - spent < (0.02 if self.tiny else 0.7) and len(times) < 100):
            times.append(self._once(function) / calls)
        self.times[name] = statistics.median(times)
        return self.times[name]

    def _once(self, function: Callable[[], object]) -> float:
        if not self.gpu:
            begin = time.perf_counter()
            function()
            return time.perf_counter() - begin
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def peak(self) -> float | None:
        """float32 operations a second, from the multiprocessors and the highest clock that the driver names."""
        if not self.gpu:
            return None
        query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
        megahertz = float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
        facts = torch.cuda.get_device_properties(0)
        return 2e6 * megahertz * LANES.get((facts.major, facts.minor), 128) * facts.multi_processor_count


def guide_bars(bench: Bench) -> Iterator[Bar]:
    batch, rows, vocab = (2, 16, 64) if bench.tiny else (64, 256, 4096)
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        cond, uncond = (bench.randn(batch, rows, vocab, dtype=dtype) for _ in range(2))
        function = lambda c=cond, u=uncond: ops.guide(c, u, t=T)  # noqa: E731
        seconds = bench.time(f"guide, CFG alone, {name}", function, graph=True)
        share = 4 * cond.numel() * cond.element_size() / seconds / bench.bandwidth
        yield Bar(f"guide, CFG alone, {name}: of the copy bandwidth", share, "", 0.80)


def guided_bars(bench: Bench) -> Iterator[Bar]:
    batch, prev_hw, hw, vocab = (2, (3, 3), (4, 4), 64) if bench.tiny else (64, (13, 13), (16, 16), 4096)
    rows, cells = hw[0] * hw[1], prev_hw[0] * prev_hw[1]
    seeds = torch.arange(batch, device=bench.device)
    ours = 0.0
    maps = [2 * bench.randn(batch, n, vocab) for n in (rows, rows, cells)]
    for dtype, name, bar in ((torch.bfloat16, "bfloat16", 0.25), (torch.float32, "float32", 0.45)):
        cond, uncond, prev = (x.to(dtype) for x in maps)

        def function(cond: Tensor = cond, uncond: Tensor = uncond, prev: Tensor = prev) -> object:
            return ops.guided_sample(cond, uncond, prev, seeds=seeds, hw=hw, prev_hw=prev_hw, t=T, beta=BETA,
                                     top_k=TOP_K, top_p=TOP_P)  # fmt: skip

        ours = bench.time(f"guided_sample, CFG + DSE, {name}", function, graph=True)
        moved = batch * ((2 * rows + cells) * vocab * cond.element_size() + 8 * rows)
        yield Bar(f"guided_sample, CFG + DSE, {name}: of the floor", moved / bench.bandwidth / ours, "", bar)
    cond, uncond, prev = maps

    def eager() -> Tensor:
        guided = peers.host_guide(cond, uncond, prev, prev_hw, hw, T, BETA)
        return peers.host_sample(guided, min(TOP_K, vocab), TOP_P)

    yield Bar("guided_sample, float32: against eager", bench.time("the same, eager", eager) / ours, "x", 30)
    if bench.left(60):
        seconds = bench.time("the same, torch.compile", torch.compile(eager, fullgraph=True))
        yield Bar("guided_sample, float32: against torch.compile", seconds / ours, "x", 5)
    else:
        yield Bar("guided_sample, float32: against torch.compile", None, "x", 5, note="no time left")
    what = "guided_sample, float32: against FlashInfer's top-k and top-p alone"
    try:
        from flashinfer.sampling import top_k_top_p_sampling_from_logits as flashinfer
    except ImportError:
        yield Bar(what, None, "x", 1, note="not installed")
        return
    flat = cond.reshape(-1, vocab)
    yield Bar(what, bench.time("FlashInfer", lambda: flashinfer(flat, TOP_K, TOP_P)) / ours, "x", 1)


def kde_bars(bench: Bench) -> Iterator[Bar]:
    count, channels = (200, 32) if bench.tiny else (20000, 32)
    x = bench.randn(1, count, channels)
    seconds = bench.time("gaussian_kde", lambda: ops.gaussian_kde(x, bandwidth=5.0), graph=True)
    peak = bench.peak()
    what = f"gaussian_kde, N={count}, C={channels}: of the float32 peak, 3 operations a pair and dimension"
    if peak is None:
        yield Bar(what, None, "", 0.45, note="the peak is a GPU's")
    else:
        yield Bar(what, 3 * count**2 * channels / seconds / peak, "", 0.45)


def spectral_bars(bench: Bench) -> Iterator[Bar]:
    x = bench.randn(*((2, 4, 16) if bench.tiny else (64, 36, 2048)))
    beta = torch.tensor(bench_spectral_reweight.BETA, dtype=torch.float64, device=bench.device)
    ours = bench.time("spectral_reweight", lambda: ops.spectral_reweight(x, beta=beta, relative=True), graph=True)
    copy = bench.time("copy of X", lambda: x.clone(), graph=True)
    yield Bar("spectral_reweight: copies of X", ours / copy, "x", 5, at_most=True)
    gram = bench.time("Gram + eigh", lambda: bench_spectral_reweight.by_gram(x, torch.float32))
    yield Bar("spectral_reweight: against Gram + torch.linalg.eigh", gram / ours, "x", 5)
    svd = bench.time("torch.linalg.svd", lambda: bench_spectral_reweight.by_svd(x))
    yield Bar("spectral_reweight: against torch.linalg.svd", svd / ours, "x", 50)


def selection_bars(bench: Bench) -> Iterator[Bar]:
    count = 8 if bench.tiny else 1000
    logits, codebook = (x.to(bench.device) for x in bench_select_candidate.problem())
    seeds = torch.arange(len(logits), device=bench.device)
    ours = bench.time(
        "draw, score, select", lambda: bench_select_candidate.ours(logits, codebook, seeds, count), graph=True
    )
    ids = ops.sample(logits, seeds, top_k=TOP_K, top_p=TOP_P, draws=count)
    x = codebook[ids]
    scores, maps = bench_gaussian_kde.official_scores(x), x.transpose(1, 2).flatten(2)
    select = bench.time(
        "select alone",
        lambda: ops.select_candidate(scores, ids.transpose(1, 2), seeds, codebook=codebook),
        graph=True,
    )
    official = bench.time("select alone, official", lambda: bench_select_candidate.official_select(scores, maps))
    yield Bar(f"selection alone, N={count}: against the official loop", official / select, "x", 100)
    begin = time.perf_counter()
    bench_select_candidate.official(logits, codebook, count)
    official = time.perf_counter() - begin
    bench.times["draw, score, select, official"] = official
    yield Bar(f"draw, score and select, N={count}: against the official loop", official / ours, "x", 100)


SECTIONS = (guide_bars, kde_bars, spectral_bars, selection_bars, guided_bars)


def table(bars: list[Bar]) -> str:
    lines = ["| what | measured | bar | |", "|---|---|---|---|"]
    for bar in bars:
        measured = f"not measured: {bar.note}" if bar.value is None else f"{bar.value:.3g}{bar.unit}"
        word = "" if bar.met is None else "met" if bar.met else "**missed**"
        lines.append(
            f"| {bar.what} | {measured} | {'at most' if bar.at_most else 'at least'} {bar.bar:g}{bar.unit} | {word} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing but that the script runs")
    parser.add_argument("--seconds", type=float, default=140.0, help="what does not fit is left out, and said so")
    parser.add_argument("--out", type=Path, default=_harness.RESULTS, help="folder of the results")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    bench = Bench(options.device, options.tiny, options.seconds)
    bars: list[Bar] = []
    failed = False
    for section in SECTIONS:
        try:
            for bar in section(bench):
                bars.append(bar)
        except Exception as error:  # one bar's trouble must not cost the others
            failed = True
            traceback.print_exc()
            bars.append(Bar(section.__name__, None, "", 0, note=f"{type(error).__name__}: {str(error)[:200]}"))
        if bench.gpu:
            torch.cuda.empty_cache()
    name = torch.cuda.get_device_name().replace(" ", "-").lower() if bench.gpu else "cpu-bars"
    result = {
        "machine": _harness.machine(),
        "tiny": options.tiny,
        "copy_gigabytes_per_second": bench.bandwidth / 1e9,
        "milliseconds": {case: seconds * 1e3 for case, seconds in bench.times.items()},
        "bars": [{**asdict(bar), "met": bar.met} for bar in bars],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    _harness.write(options.out / f"{name}.json", json.dumps(result, indent=1))
    _harness.write(options.out / f"{name}.md", table(bars))
    print(f"copy: {bench.bandwidth / 1e9:.0f} GB/s\n\n{table(bars)}\n\nwritten: {options.out / name}.json")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
