"""Softmax, layer normalisation and matmul in Triton, compiled to PTX without a GPU by tools/golden_ptx.py."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def softmax(x, y, stride, columns, BLOCK: tl.constexpr):
    """One program a row, which lies in registers as a whole."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * stride + at, mask=at < columns, other=float("-inf"))
    powers = tl.exp(values - tl.max(values, 0))
    tl.store(y + row * stride + at, powers / tl.sum(powers, 0), mask=at < columns)


@triton.jit
def layernorm(x, weight, bias, y, columns, epsilon, BLOCK: tl.constexpr):
    """One program a row of float16."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    values = tl.load(x + row * columns + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, 0) / columns
    centred = tl.where(inside, values - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / columns + epsilon)
    w = tl.load(weight + at, mask=inside, other=0.0)
    b = tl.load(bias + at, mask=inside, other=0.0)
    tl.store(y + row * columns + at, (centred * scale * w + b).to(tl.float16), mask=inside)


@triton.jit
def matmul(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """A tile of C[m, n] = A[m, k] B[k, n], bfloat16 with float sums, tails masked."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for at in range(0, k, BK):
        inside = depth < k - at
        left = tl.load(
            a + rows[:, None] * k + (at + depth)[None, :], mask=(rows[:, None] < m) & inside[None, :], other=0.0
        )
        right = tl.load(
            b + (at + depth)[:, None] * n + columns[None, :], mask=inside[:, None] & (columns[None, :] < n), other=0.0
        )
        total = tl.dot(left, right, total)
    tl.store(c + rows[:, None] * n + columns[None, :], total, mask=(rows[:, None] < m) & (columns[None, :] < n))


@triton.jit
def matmul_tma(a, b, c, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """The same by tensor descriptors: A[m, k], B[k, n] and C[m, n] (float16) in boxes of a tile."""
    row, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for at in range(0, k, BK):
        total = tl.dot(a.load([row, at]), b.load([at, column]), total)
    c.store([row, column], total.to(tl.float16))
