"""Sums of matrix products, ``bias + sum_i A_i B_i``, in one pass that sums in fp32 and rounds once.

Torch multiplies (oneDNN), except where it was seen to leave all threads but one idle: left sides about as long as the
right side is broad, which is where small micro-batches lie. There, on processors with AMX tiles, a C++ kernel runs in
0.5 to 0.7 of the time; elsewhere it would take 1.2 times as long, as it packs the right side for each call. Right
sides that stay can be packed once: with few rows, as in decoding, that takes 0.5 to 0.7 of torch's time. A row of the
kernel's result does not depend on the rows beside it.

Shapes: ``M`` rows, ``K`` contracted, ``N`` columns.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from swift.kernels import compiled
from swift.kernels.norm import LIBRARY

BROAD = 1152  # columns up to which oneDNN 3.x keeps one thread busy, with CRAWLS[0] to CRAWLS[1] times as many rows
CRAWLS = (0.9, 2.0)
LEAST = 256  # rows below which packing a right side is not worth it
SIDE = 32  # rows and columns of a block of packed numbers
ROWS, COLUMNS, PACKED = range(3)

LIBRARY.define('products(Tensor[] lefts, Tensor[] rights, Tensor? bias) -> Tensor')


@dataclass(frozen=True, slots=True)
class Packed:
    """A right side [K, N] as the kernel reads it: a copy, worth it for weights that stay."""

    words: Tensor  # int32
    K: int
    N: int


def product(*terms: tuple[Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
    """``bias + sum_i A_i B_i``, [M, N]; without gradient.

    Args:
        terms: pairs A_i [M, K_i], B_i [K_i, N], of one dtype; B_i may be the transpose of a dense matrix.
        bias: [N].
    """
    lefts, rights = zip(*terms, strict=True)
    if takes(lefts, rights):
        return torch.ops.swift.products(list(lefts), list(rights), bias)
    out = lefts[0] @ rights[0] if bias is None else torch.addmm(bias, lefts[0], rights[0])
    for left, right in zip(lefts[1:], rights[1:], strict=True):
        out.addmm_(left, right)
    return out


def takes(lefts: Sequence[Tensor], rights: Sequence[Tensor]) -> bool:
    """Whether the kernel computes these: bf16 on a CPU with tiles, of a shape that torch is slow with."""
    first = lefts[0]
    rows, columns = len(first), rights[0].shape[1]
    return (
        first.dtype == torch.bfloat16
        and first.device.type == 'cpu'
        and columns <= BROAD
        and CRAWLS[0] * columns <= rows <= CRAWLS[1] * columns
        and rows >= LEAST
        and torch.get_num_threads() > 1
        and runs()
        and all(each.stride(1) == 1 for each in lefts)
        and all(each.dtype == torch.bfloat16 and 1 in each.stride() for each in rights)
    )


def pack(right: Tensor) -> Packed:
    """Pack B [K, N], bf16, which may be the transpose of a dense matrix. Needs ``runs()``."""
    K, N = right.shape
    up = lambda n: -(-n // SIDE) * SIDE
    words = torch.empty(up(K) * up(N) // 2, dtype=torch.int32)
    stride, kind = _storage(right)
    compiled.function('product_pack', 'p iiii p')(right.data_ptr(), K, N, stride, kind, words)
    return Packed(words, K, N)


def packed_product(left: Tensor, right: Packed, bias: Tensor | None = None) -> Tensor:
    """``bias + A B`` of A [M, K], bf16, and a packed B; M may be 1."""
    assert left.shape[1] == right.K, f'{tuple(left.shape)} times [{right.K}, {right.N}]'
    left = left if left.stride(1) == 1 else left.contiguous()
    out = left.new_empty(len(left), right.N)
    term = left.data_ptr(), left.stride(0), right.K, right.words.data_ptr(), 0, PACKED
    _run([term], bias, out)
    return out


@torch.compiler.assume_constant_result
def runs() -> bool:
    """Whether the kernel runs on this machine."""
    return _runs()


@cache
def _runs() -> bool:
    if compiled.missing() is not None:
        return False
    answer = torch.zeros(1, dtype=torch.int64)
    compiled.function('product_runs', 'p')(answer)
    return bool(answer)


@torch.library.impl(LIBRARY, 'products', 'CPU')
def _products(lefts: list[Tensor], rights: list[Tensor], bias: Tensor | None) -> Tensor:
    out = lefts[0].new_empty(len(lefts[0]), rights[0].shape[1])
    terms = [
        (left.data_ptr(), left.stride(0), left.shape[1], right.data_ptr(), *_storage(right))
        for left, right in zip(lefts, rights, strict=True)
    ]
    _run(terms, bias, out)
    return out


@torch.library.impl(LIBRARY, 'products', 'Meta')
def _shape(lefts: list[Tensor], rights: list[Tensor], bias: Tensor | None) -> Tensor:
    return lefts[0].new_empty(len(lefts[0]), rights[0].shape[1])


def _run(terms: list[tuple[int, ...]], bias: Tensor | None, out: Tensor) -> None:
    numbers = [number for term in terms for number in term]
    table: Any = (ctypes.c_int64 * len(numbers))(*numbers)
    run = compiled.function('product_bf16', 'p i pp ii')
    run(ctypes.addressof(table), len(terms), None if bias is None else bias.contiguous(), out, *out.shape)


def _storage(right: Tensor) -> tuple[int, int]:
    """How far apart rows, or columns, of B lie, and which of them is dense."""
    return (right.stride(0), ROWS) if right.stride(1) == 1 else (right.stride(1), COLUMNS)
