"""Nearest centroids whose products leave a choice: the three lowest scores of a row, and which of them is nearer."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _enter(score, k, best, label, second, runner_up, third):
    """The three lowest scores so far and the first two centroids, with one more; of equals the earlier comes first."""
    is_first, is_second, is_third = score < best, score < second, score < third
    third = tl.where(is_second, second, tl.where(is_third, score, third))
    runner_up = tl.where(is_first, label, tl.where(is_second, k, runner_up))
    second = tl.where(is_first, best, tl.where(is_second, score, second))
    label = tl.where(is_first, k, label)
    best = tl.where(is_first, score, best)
    return best, label, second, runner_up, third


@triton.jit
def enter_three_lowest(scores, k0, best, label, second, runner_up, third, BLOCK_K: tl.constexpr):
    """The same with the lowest three of the scores of centroids k0, k0 + 1, ... of every row."""
    column = tl.arange(0, BLOCK_K)[None, :]
    for _ in tl.static_range(3):
        score, k = tl.min(scores, axis=1, return_indices=True, return_indices_tie_break_left=True)
        best, label, second, runner_up, third = _enter(score, k0 + k, best, label, second, runner_up, third)
        scores = tl.where(column == k[:, None], float("inf"), scores)
    return best, label, second, runner_up, third


@triton.jit
def nearer(
    x_ptrs, C_ptr, label, runner_up, asked, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, EVEN_D: tl.constexpr
):
    """Of the rows asked for the nearer one of two centroids by squared differences; among equals the lower index."""
    own = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    other = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = asked[:, None] if EVEN_D else asked[:, None] & (d < D)[None, :]
        x = tl.load(x_ptrs[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
        to_own = x - tl.load(C_ptr + label[:, None] * D + d[None, :], mask=mask, other=0.0)
        own += to_own * to_own
        to_other = x - tl.load(C_ptr + runner_up[:, None] * D + d[None, :], mask=mask, other=0.0)
        other += to_other * to_other
    own, other = tl.sum(own, axis=1), tl.sum(other, axis=1)
    takes_other = asked & ((other < own) | ((other == own) & (runner_up < label)))
    return tl.where(takes_other, runner_up, label)
