"""Matrices on which an eigensolver may fail to end or lose digits: batches of (B, L, C), float64, by kind and seed."""

import torch
from torch import Tensor


def _normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def _of_rank(g: torch.Generator, b: int, n: int, m: int, rank: int) -> Tensor:
    """Products rounded to float32: rank plus noise of 1e-8."""
    return (_normal(g, b, n, rank) @ _normal(g, b, rank, m)).float().double()


def _with_values(g: torch.Generator, values: Tensor, m: int) -> Tensor:
    """Singular values (b, n) between random orthogonal factors."""
    b, n = values.shape
    u, v = torch.linalg.qr(_normal(g, b, n, n))[0], torch.linalg.qr(_normal(g, b, m, n))[0]
    return (u * values[:, None]) @ v.mT


def _clusters(g: torch.Generator, b: int, n: int, m: int, spread: float) -> Tensor:
    groups = torch.randint(1, 4, (b, n), generator=g).double()
    return _with_values(g, groups * (1 + spread * _normal(g, b, n)), m)


def _graded(g: torch.Generator, b: int, n: int, m: int, decades: float) -> Tensor:
    """A geometric series of singular values."""
    return _with_values(g, 10 ** (-decades * torch.linspace(0, 1, n, dtype=torch.float64)).expand(b, n), m)


def _graded_rows(g: torch.Generator, b: int, n: int, m: int) -> Tensor:
    """Rows, and then columns, of 1 to 1e-12, falling, rising or in any order."""
    scales = 10 ** (-12 * torch.linspace(0, 1, n, dtype=torch.float64))
    order = torch.stack([(torch.arange(n), torch.arange(n).flip(0), torch.randperm(n, generator=g))[i % 3]
                         for i in range(b)])  # fmt: skip
    x = scales[order][..., None] * _normal(g, b, n, m)
    x[b // 2 :, :, :n] *= scales[order[b // 2 :]][:, None]
    return x


def _tridiagonal(d: Tensor, e: Tensor) -> Tensor:
    return torch.diag_embed(d) + torch.diag_embed(e, 1) + torch.diag_embed(e, -1)


def _wilkinson(g: torch.Generator, b: int, n: int, m: int, glue: float) -> Tensor:
    """W_n: |k| beside ones, whose large eigenvalues come in pairs; with `glue` copies of W_21, nearly apart.

    Half of them are such that X X^T is the matrix but for a shift, the others such that X is.
    """
    block = n if glue == 0 else min(n, 21)
    place = torch.arange(n) % block
    d = (place - (block - 1) / 2).abs().double()
    e = torch.where(place[1:] == 0, glue, 1.0).double()
    x = torch.zeros(b, n, m, dtype=torch.float64)
    w = _tridiagonal(d, e).expand(b, n, n).clone()
    w[: b // 2] = torch.linalg.cholesky(w[: b // 2] + 2.5 * torch.eye(n, dtype=torch.float64))
    x[..., :n] = w
    return x


def _toeplitz(g: torch.Generator, b: int, n: int, m: int) -> Tensor:
    x = torch.zeros(b, n, m, dtype=torch.float64)
    x[..., :n] = _tridiagonal(torch.full((b, n), 2.0).double(), torch.full((b, n - 1), -1.0).double())
    return x


def _integers(g: torch.Generator, b: int, n: int, m: int) -> Tensor:
    return torch.randint(-2, 3, (b, n, m), generator=g).double()


def _sparse(g: torch.Generator, b: int, n: int, m: int) -> Tensor:
    """Ones where a coin of 1 in n falls: many zero rows and columns, repeated ones, and blocks."""
    return (torch.rand(b, n, m, generator=g) < 1.5 / n).double()


def _zero_rows(g: torch.Generator, b: int, n: int, m: int) -> Tensor:
    keep_row, keep_column = torch.rand(b, n, 1, generator=g) < 0.6, torch.rand(b, 1, m, generator=g) < 0.6
    return _normal(g, b, n, m) * keep_row * keep_column


def _repeated(g: torch.Generator, b: int, n: int, m: int) -> Tensor:
    """Every row one of three, in three signs."""
    rows, sign = torch.randint(0, 3, (b, n), generator=g), torch.randint(-1, 2, (b, n, 1), generator=g)
    return _normal(g, b, 3, m).gather(1, rows[..., None].expand(b, n, m)) * sign


def _permuted_diagonal(g: torch.Generator, b: int, n: int, m: int) -> Tensor:
    x = torch.zeros(b, n, m, dtype=torch.float64)
    values = 10 ** (-12 * torch.rand(b, n, generator=g, dtype=torch.float64))
    values[::2] = torch.randint(0, 4, (len(values[::2]), n), generator=g).double()
    for i in range(b):
        x[i, torch.randperm(n, generator=g), torch.arange(n)] = values[i]
    return x


def _coupled(g: torch.Generator, b: int, n: int, m: int) -> Tensor:
    """Two matrices side by side, 1e-1 to 1e-16 apart in size and as weakly coupled."""
    x, size = _normal(g, b, n, m), 10 ** -(1 + 15 * torch.rand(b, 2, generator=g, dtype=torch.float64))
    half = (n + 1) // 2
    x[:, half:] *= size[:, :1, None]
    x[:, :half, half:] *= size[:, 1:, None]
    return x


def _step(g: torch.Generator, b: int, n: int, m: int, low: float) -> Tensor:
    """One large singular value and n - 1 equal ones."""
    values = torch.full((b, n), low, dtype=torch.float64)
    values[:, 0] = 1
    return _with_values(g, values, m)


KINDS = {
    "random": lambda g, b, n, m: _normal(g, b, n, m),
    "rank 1": lambda g, b, n, m: _of_rank(g, b, n, m, 1),
    "rank 2": lambda g, b, n, m: _of_rank(g, b, n, m, 2),
    "rank n / 16": lambda g, b, n, m: _of_rank(g, b, n, m, (n + 15) // 16),
    "rank n / 2": lambda g, b, n, m: _of_rank(g, b, n, m, (n + 1) // 2),
    "rank 1 and noise": lambda g, b, n, m: _normal(g, b, n, 1) * _normal(g, b, 1, m) + 1e-7 * _normal(g, b, n, m),
    "clusters of 1e-7": lambda g, b, n, m: _clusters(g, b, n, m, 1e-7),
    "clusters of 1e-15": lambda g, b, n, m: _clusters(g, b, n, m, 1e-15),
    "all equal": lambda g, b, n, m: _with_values(g, torch.ones(b, n, dtype=torch.float64), m),
    "one and 1e-6": lambda g, b, n, m: _step(g, b, n, m, 1e-6),
    "one and 1e-8": lambda g, b, n, m: _step(g, b, n, m, 1e-8),
    "graded to 1e-6": lambda g, b, n, m: _graded(g, b, n, m, 6),
    "graded to 1e-12": lambda g, b, n, m: _graded(g, b, n, m, 12),
    "graded rows": _graded_rows,
    "Wilkinson": lambda g, b, n, m: _wilkinson(g, b, n, m, 0.0),
    "glued Wilkinson 1e-8": lambda g, b, n, m: _wilkinson(g, b, n, m, 1e-8),
    "glued Wilkinson 1e-14": lambda g, b, n, m: _wilkinson(g, b, n, m, 1e-14),
    "Toeplitz": _toeplitz,
    "integers": _integers,
    "sparse": _sparse,
    "zero rows": _zero_rows,
    "repeated rows": _repeated,
    "permuted diagonal": _permuted_diagonal,
    "coupled": _coupled,
}

SCALES = {"": 1.0, "tiny": 1e-30, "huge": 1e30, "denormal": 1e-40}  # as float32


def hard(kind: str, count: int, length: int, channels: int, seed: int, scale: str = "") -> Tensor:
    """(count, length, channels) in float64."""
    g = torch.Generator().manual_seed(seed)
    n, m = min(length, channels), max(length, channels)
    x = KINDS[kind](g, count, n, m) * SCALES[scale]
    return x if length <= channels else x.mT.contiguous()


# The kinds that took most sweeps or did not end before.
HARDEST = ["rank 1", "rank 2", "rank n / 16", "rank 1 and noise", "clusters of 1e-15", "one and 1e-6", "one and 1e-8",
           "graded to 1e-12", "graded rows", "all equal", "glued Wilkinson 1e-14", "integers", "coupled"]  # fmt: skip


def hardest(kind: str, n: int, count: int) -> Tensor:
    return hard(kind, count, n, n + 3, seed=HARDEST.index(kind))
