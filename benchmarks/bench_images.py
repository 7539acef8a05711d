"""256 images of the built-in model with everything on, and where the time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture
from torch.profiler import profile

from varfast import SSG, DiverseVAR, Sampler, VARScaling
from varfast.models import load

IMAGES, LIMIT_S = 256, 60.0
DIVERSE = DiverseVAR((1, 2), (1.0, 0.1), relative=True, where="ends")
EVERYTHING = (SSG(0.4, "constant"), VARScaling(scales=(1, 2), candidates=50), DIVERSE)


class Clocked:
    """A model that adds up the seconds spent in each of its methods."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seconds: dict[str, float] = defaultdict(float)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.model, name)
        if name not in ("begin", "features", "head", "advance", "decode"):
            return found

        def clocked(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = found(*args, **kwargs)
            self.seconds[name] += time.perf_counter() - start
            return result

        return clocked


def test_256_images_with_everything_on(benchmark: BenchmarkFixture) -> None:
    model = Clocked(load())
    sampler = Sampler(model, EVERYTHING, cfg=1.0, top_k=400, top_p=0.98)
    labels, seeds = [i % 10 for i in range(IMAGES)], list(range(IMAGES))
    sampler(labels=labels[:8], seeds=seeds[:8])
    model.seconds.clear()
    start = time.perf_counter()
    benchmark.pedantic(sampler, kwargs={"labels": labels, "seeds": seeds}, rounds=1)
    total = time.perf_counter() - start
    parts = dict(sorted(model.seconds.items(), key=lambda item: -item[1]))
    with profile() as profiler:
        sampler(labels=labels, seeds=seeds)
    ops = {e.key: e.cpu_time_total / 1e6 for e in profiler.key_averages() if e.key.startswith("varfast::")}
    benchmark.extra_info.update(total_s=total, model_s=parts, ops_s=ops)
    print(f"\n{IMAGES} images in {total:.1f} s")
    for name, seconds in [*parts.items(), *sorted(ops.items(), key=lambda item: -item[1])]:
        print(f"  {name:32} {seconds:6.2f} s {seconds / total:6.1%}")
    assert total <= LIMIT_S
