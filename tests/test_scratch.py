"""Memory that the CPU ops take besides inputs and outputs: its peak, and what rests after a large call."""

import subprocess
import sys

import pytest

MIB = 2**20
PROGRAM = """
import gc, resource, torch
from varfast import ops
torch.set_num_threads(2)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def resting():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
{setup}
seeds = torch.arange(1)
call(*small)  # code, tables and the thread pool
before, before_peak = resting(), peak()
for _ in range(3):
    call(*large)
print(peak() - before_peak, resting() - before)
"""
GUIDED = """
def maps(channels, side, prev_side):
    return torch.randn(1, side**2, channels), torch.randn(1, side**2, channels), torch.randn(1, prev_side**2, channels)
def call(x, u, p):
    hw, prev_hw = ((int(len(m[0])**0.5),) * 2 for m in (x, p))
    ops.guided_sample(x, u, p, seeds=seeds, prev_hw=prev_hw, hw=hw, t=1.5, beta=0.5, top_k=900, top_p=0.96)
small, large = maps(1000, 8, 6), maps({channels}, 64, 48)
"""
ROWS = """
def call(x, book):
    ops.sample(x, seeds, top_k=900, top_p=0.96)
    ops.sample(x, seeds, top_p=0.9)
    ops.smooth_embed(x, book, seeds, ratio=0.5, top_k=900)
small, large = ((torch.randn(1, 4, vocab), torch.ones(vocab, 1)) for vocab in (1000, {vocab}))
"""


def measured(setup: str) -> tuple[int, int]:
    """Bytes at the peak and afterwards, beyond what there was before the large calls."""
    program = PROGRAM.format(setup=setup)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    spent, rest = map(int, done.stdout.split())
    return spent, rest


# What is kept: 4.5 MiB a thread and 8 MiB for all; and what the allocator keeps of small tensors.
KEPT = (2 * 4.5 + 8 + 4) * MIB


def test_a_whole_large_grid_takes_its_guided_logits_and_gives_them_back():
    spent, rest = measured(GUIDED.format(channels=4096))
    assert spent <= 4096 * (4096 + 48) * 4 + KEPT  # 65 MiB, where bands would read prev eleven times
    assert rest <= KEPT


def test_guided_logits_of_a_grid_larger_than_a_band_are_never_all_in_memory():
    spent, rest = measured(GUIDED.format(channels=9000))
    assert spent <= 128 * MIB + KEPT  # of 141
    assert rest <= KEPT


@pytest.mark.parametrize("vocab", (700_000, 3_000_000))  # 11 MiB, which malloc would keep, and 48
def test_scratch_of_long_rows_is_given_back(vocab):
    _, rest = measured(ROWS.format(vocab=vocab))
    assert rest <= KEPT
