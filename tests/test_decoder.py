"""The decoder: an image's bits depend on its own map alone, not on batch, neighbours or threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny import ROWS_ALIKE

from varfast import Sampler, models
from varfast.models.linear import Conv, GroupNorm, silu

needs_rows_alike = pytest.mark.skipif(
    not ROWS_ALIKE, reason="the bits of this torch's products depend on the number of rows"
)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def maps(model: models.VAR, count: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(count, model.config.z_channels, *model.grids[-1])


@needs_rows_alike
@pytest.mark.parametrize("count", [9, pytest.param(200, marks=pytest.mark.slow)])
def test_an_images_bits_depend_on_its_own_map_alone(threads: None, count: int) -> None:
    vae, given = models.load().vae, maps(models.load(), count)
    shuffled = torch.randperm(count)
    torch.set_num_threads(1)
    with torch.inference_mode():
        alone = torch.cat([vae.decode(one[None]) for one in given])
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            for batch in (1, 2, 7, 64):
                assert torch.equal(torch.cat([vae.decode(some) for some in given.split(batch)]), alone)
                mixed = torch.cat([vae.decode(some) for some in given[shuffled].split(batch)])
                assert torch.equal(mixed, alone[shuffled])


@needs_rows_alike
def test_the_samplers_images_are_the_same_in_any_batch_and_on_any_threads(threads: None) -> None:
    sampler, labels, seeds = Sampler(models.load(), cfg=1.0), torch.arange(15) % 10, torch.arange(15)
    torch.set_num_threads(1)
    together = sampler(labels, seeds)
    for number, batch in ((1, 1), (1, 7), (2, 4), (2, 15), (3, 15)):
        torch.set_num_threads(number)
        parts = [sampler(y, s) for y, s in zip(labels.split(batch), seeds.split(batch), strict=True)]
        assert torch.equal(torch.cat(parts), together)


def test_the_layers_are_torchs() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 16, 33, 32)
    for layer in (Conv(16, 8, 3, 1, 1), Conv(16, 8, 1), Conv(16, 8, 3, 2), GroupNorm(4, 16, eps=1e-6)):
        wanted = layer(x)  # with gradients: by torch
        with torch.inference_mode():
            torch.testing.assert_close(layer(x), wanted)
            torch.testing.assert_close(layer(x[:1].transpose(2, 3).contiguous().transpose(2, 3)), wanted[:1])
            assert layer(x[:0]).shape == wanted[:0].shape
    with torch.inference_mode():
        torch.testing.assert_close(silu(x), torch.nn.functional.silu(x))
