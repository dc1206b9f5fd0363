"""The kernels of rows for CUDA, in Triton: RMSNorm, gated activations, rotary positions, log-probabilities.

Each function stands for the C++ one of ``norm``, ``gated``, ``rotary`` or ``logprobs``: the same arguments, the
same sums in fp32, the same order of rounding. Sums over rows go over a number of blocks that depends on the shape only,
so that two runs give the same bits.
"""

# Triton comes with CUDA builds of torch only, and its kernels are launched by subscript:
# pyright: reportMissingImports=false, reportIndexIssue=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096
"""Numbers that a program of RMSNorm holds at a time, or one row where that is longer."""
BLOCKS = 256
"""Most partial sums of the gradient of RMSNorm's weight."""
SPAN = 1024
"""Numbers of a row that a program of a gated activation computes."""
STRIP = 4096
"""Logits of a row that are reduced at a time."""


# ------------------------------------------------------------------------------------------------------------ RMSNorm
@triton.jit
def _rms_norm(
    x, delta, weight, total, y, rstd, rows, width, eps, offset,
    summed: tl.constexpr, early: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * HIGH + tl.arange(0, HIGH)
    column = tl.arange(0, WIDE)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    place = row[:, None] * width + column[None, :]
    value = tl.load(x + place, inside, 0.0)
    if summed:
        value = (value.to(tl.float32) + tl.load(delta + place, inside, 0.0).to(tl.float32)).to(value.dtype)
        tl.store(total + place, value, inside)
    wide = value.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, 1) / width + eps)
    normal = wide * scale[:, None]
    if early:
        normal = normal.to(value.dtype).to(tl.float32)
    gain = offset + tl.load(weight + column, column < width, 0.0).to(tl.float32)
    tl.store(y + place, (normal * gain[None, :]).to(value.dtype), inside)
    tl.store(rstd + row, scale, row < rows)


@triton.jit
def _rms_norm_backward(
    grad, direct, x, weight, rstd, grad_x, partial, rows, width, tiles, offset,
    summed: tl.constexpr, early: tl.constexpr, weighed: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDE)
    gain = offset + tl.load(weight + column, column < width, 0.0).to(tl.float32)
    sums = tl.zeros((WIDE,), tl.float32)
    for tile in range(tiles):
        row = (block * tiles + tile) * HIGH + tl.arange(0, HIGH)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        place = row[:, None] * width + column[None, :]
        value = tl.load(x + place, inside, 0.0)
        pull = tl.load(grad + place, inside, 0.0).to(tl.float32)
        scale = tl.load(rstd + row, row < rows, 0.0)[:, None]
        normal = value.to(tl.float32) * scale
        wanted = pull * gain[None, :]
        mean = tl.sum(wanted * normal, 1)[:, None] / width
        slope = (scale * (wanted - normal * mean)).to(value.dtype)
        if summed:
            slope = (slope.to(tl.float32) + tl.load(direct + place, inside, 0.0).to(tl.float32)).to(value.dtype)
        tl.store(grad_x + place, slope, inside)
        if weighed:
            if early:
                normal = normal.to(value.dtype).to(tl.float32)
            sums += tl.sum(pull * normal, 0)
    if weighed:
        tl.store(partial + block * width + column, sums, column < width)


def _tile(width: int) -> tuple[int, int]:
    """Rows and columns of a tile."""
    wide = triton.next_power_of_2(max(1, width))
    return max(1, TILE // wide), wide


def rms_norm(
    x: Tensor,
    delta: Tensor | None,
    weight: Tensor,
    total: Tensor | None,
    y: Tensor,
    rstd: Tensor,
    eps: float,
    offset: float,
    early: bool,
) -> None:
    """x, y [R, d] and weight [d] are contiguous; y, rstd fp32 [R] and, given a ``delta``, ``total`` are written."""
    rows, width = len(rstd), len(weight)
    high, wide = _tile(width)
    if rows:
        grid = (triton.cdiv(rows, high),)
        summed = delta is not None
        _rms_norm[grid](x, delta, weight, total, y, rstd, rows, width, eps, offset, summed, early, high, wide)


def rms_norm_backward(
    grad: Tensor,
    direct: Tensor | None,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    grad_x: Tensor,
    offset: float,
    early: bool,
    weighed: bool,
) -> Tensor:
    """Writes ``grad_x``. Returns the weight's gradient, fp32 [d]; zeros unless ``weighed``."""
    rows, width = len(rstd), len(weight)
    high, wide = _tile(width)
    tiles = max(1, triton.cdiv(triton.cdiv(rows, high), BLOCKS))
    blocks = triton.cdiv(rows, high * tiles)
    partial = torch.empty(blocks if weighed else 0, width, dtype=torch.float32, device=x.device)
    if rows:
        _rms_norm_backward[(blocks,)](
            grad,
            direct,
            x,
            weight,
            rstd,
            grad_x,
            partial,
            rows,
            width,
            tiles,
            offset,
            direct is not None,
            early,
            weighed,
            high,
            wide,
        )
    return partial.sum(0)


# -------------------------------------------------------------------------------------------------- gated activations
@triton.jit
def _activate(x, act: tl.constexpr):
    """act(x) and its derivative: 0 SiLU, 1 GELU's tanh form as x sigmoid(k), 2 exact GELU."""
    if act == 2:
        z = tl.abs(x) * 0.7071067811865476  # erfc(z) = exp(-z^2) t P(t), as in cpp/gated.cpp
        t = 1.0 / (1.0 + 0.5 * z)
        p = -0.0255228069 * t + 0.0644611045
        p = p * t + 0.0307541811
        p = p * t - 0.198550003
        p = p * t + 0.0794699591
        p = p * t + 0.05826128
        p = p * t + 0.180414963
        p = p * t + 0.246512197
        p = p * t + 0.28210422
        p = p * t + 0.282094747
        bell = tl.exp(-z * z)
        tail = 0.5 * bell * t * p
        share = tl.where(x < 0, tail, 1.0 - tail)
        slope = share + x * bell * 0.3989422804014327
    elif act == 1:
        near = tl.where(x < -20.0, -20.0, tl.where(x > 20.0, 20.0, x))  # beyond, the sigmoid is 0 or 1
        share = tl.sigmoid(1.595769121605731 * near * (1.0 + 0.044715 * near * near))
        rise = 1.595769121605731 * (1.0 + 0.134145 * near * near)
        slope = share + near * (share * (1.0 - share)) * rise
    else:
        share = tl.sigmoid(x)
        slope = share + x * (share * (1.0 - share))
    return x * share, slope


@triton.jit
def _gated(gate, up, y, width, gate_stride, up_stride, act: tl.constexpr, SPAN: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * SPAN + tl.arange(0, SPAN)
    inside = column < width
    opened = tl.load(gate + row * gate_stride + column, inside, 0.0)
    value, _ = _activate(opened.to(tl.float32), act)
    other = tl.load(up + row * up_stride + column, inside, 0.0).to(tl.float32)
    tl.store(y + row * width + column, (value * other).to(opened.dtype), inside)


@triton.jit
def _gated_backward(
    grad, gate, up, grad_gate, grad_up, width, gate_stride, up_stride, out_stride, act: tl.constexpr, SPAN: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * SPAN + tl.arange(0, SPAN)
    inside = column < width
    opened = tl.load(gate + row * gate_stride + column, inside, 0.0)
    value, slope = _activate(opened.to(tl.float32), act)
    other = tl.load(up + row * up_stride + column, inside, 0.0).to(tl.float32)
    pull = tl.load(grad + row * width + column, inside, 0.0).to(tl.float32)
    tl.store(grad_gate + row * out_stride + column, (pull * other * slope).to(opened.dtype), inside)
    tl.store(grad_up + row * out_stride + column, (pull * value).to(opened.dtype), inside)


def gated(gate: Tensor, up: Tensor, y: Tensor, act: int) -> None:
    """gate, up [R, I] have dense rows; y [R, I] is contiguous and written."""
    rows, width = gate.shape
    if gate.numel():
        grid = (rows, triton.cdiv(width, SPAN))
        _gated[grid](gate, up, y, width, gate.stride(0), up.stride(0), act, SPAN)


def gated_backward(grad: Tensor, gate: Tensor, up: Tensor, grad_gate: Tensor, grad_up: Tensor, act: int) -> None:
    """Writes grad_gate and grad_up, [R, I] with dense rows equally far apart."""
    rows, width = gate.shape
    if gate.numel():
        strides = gate.stride(0), up.stride(0), grad_gate.stride(0)
        grid = (rows, triton.cdiv(width, SPAN))
        _gated_backward[grid](grad, gate, up, grad_gate, grad_up, width, *strides, act, SPAN)


# ------------------------------------------------------------------------------------------------------------- rotary
@triton.jit
def _rotary(
    x, cos, sin, y, heads, tokens, width, half, by_batch, by_head, by_token, by_angles,
    adjacent: tl.constexpr, back: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)
    batch, token = place // tokens, place % tokens
    head, pair = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, HALF)
    first = pair * 2 if adjacent else pair
    second = first + 1 if adjacent else pair + half
    angles = batch * by_angles + token * 2 * half
    kept = pair < half
    cos_a = tl.load(cos + angles + first, kept, 0.0).to(tl.float32)[None, :]
    cos_b = tl.load(cos + angles + second, kept, 0.0).to(tl.float32)[None, :]
    sin_a = tl.load(sin + angles + first, kept, 0.0).to(tl.float32)[None, :]
    sin_b = tl.load(sin + angles + second, kept, 0.0).to(tl.float32)[None, :]
    source = x + batch * by_batch + token * by_token + head[:, None] * by_head
    target = y + (place * heads + head[:, None]) * width
    inside = (head < heads)[:, None] & kept[None, :]
    a = tl.load(source + first[None, :], inside, 0.0)
    b = tl.load(source + second[None, :], inside, 0.0).to(tl.float32)
    kind = a.dtype
    a = a.to(tl.float32)
    if back:
        to_a, to_b = a * cos_a + b * sin_b, b * cos_b - a * sin_a
    else:
        to_a, to_b = a * cos_a - b * sin_a, b * cos_b + a * sin_b
    tl.store(target + first[None, :], to_a.to(kind), inside)
    tl.store(target + second[None, :], to_b.to(kind), inside)
    if REST > 0:
        rest = 2 * half + tl.arange(0, REST)
        inside = (head < heads)[:, None] & (rest < width)[None, :]
        tl.store(target + rest[None, :], tl.load(source + rest[None, :], inside, 0.0), inside)


def rotary(x: Tensor, cos: Tensor, sin: Tensor, y: Tensor, adjacent: bool, back: bool) -> None:
    """x [B, H, T, D] has dense heads, cos and sin [B or 1, T, R] are contiguous; y, in [B, T, H, D], is written."""
    batch, heads, tokens, width = x.shape
    half = cos.shape[2] // 2
    if not x.numel():
        return
    wide = triton.next_power_of_2(max(1, half))
    high = min(triton.next_power_of_2(heads), max(1, TILE // wide))
    rest = triton.next_power_of_2(width - 2 * half) if width > 2 * half else 0
    by_angles = 0 if len(cos) == 1 else cos.stride(0)
    _rotary[(batch * tokens, triton.cdiv(heads, high))](
        x, cos, sin, y, heads, tokens, width, half, *x.stride()[:3], by_angles, adjacent, back, high, wide, rest
    )


# --------------------------------------------------------------------------------------------------- rows of logits
@triton.jit
def _logprob_rows(z, targets, logps, lse, entropy, correct, vocabulary, gradient: tl.constexpr, STRIP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits = z + row * vocabulary
    at = tl.load(targets + row)
    target = tl.load(logits + at).to(tl.float32)
    top = tl.full((STRIP,), float('-inf'), tl.float32)
    before = tl.zeros((STRIP,), tl.int32)  # earlier tokens that are as likely as the target
    bad = tl.zeros((STRIP,), tl.float32)  # NaN where a logit is: maxima pass it over
    for start in range(0, vocabulary, STRIP):
        column = start + tl.arange(0, STRIP)
        each = tl.load(logits + column, column < vocabulary, float('-inf')).to(tl.float32)
        top = tl.maximum(top, each)
        before += ((each >= target) & (column < at)).to(tl.int32)
        bad += tl.where(each != each, each, 0.0)
    highest = tl.max(top, 0)
    total = tl.zeros((STRIP,), tl.float32)
    product = tl.zeros((STRIP,), tl.float32)
    for start in range(0, vocabulary, STRIP):
        column = start + tl.arange(0, STRIP)
        each = tl.load(logits + column, column < vocabulary, float('-inf')).to(tl.float32) - highest
        share = tl.exp(each)
        total += share
        product += share * tl.maximum(each, -1e4)  # exp(-inf) (-inf) is 0 here
    whole = tl.sum(total, 0)
    log_total = tl.log(whole) + tl.sum(bad, 0)
    tl.store(logps + row, target - highest - log_total)
    tl.store(lse + row, log_total + highest)
    tl.store(entropy + row, log_total - tl.sum(product, 0) / whole)
    tl.store(correct + row, (target == highest) & (tl.sum(before, 0) == 0))
    if gradient:
        for start in range(0, vocabulary, STRIP):
            column = start + tl.arange(0, STRIP)
            value = tl.load(logits + column, column < vocabulary, 0.0)
            share = tl.exp(value.to(tl.float32) - highest - log_total)
            slope = tl.where(column == at, 1.0 - share, -share)
            tl.store(logits + column, slope.to(value.dtype), column < vocabulary)


def logprob_rows(
    z: Tensor, targets: Tensor, logps: Tensor, lse: Tensor, entropy: Tensor, correct: Tensor, gradient: bool
) -> None:
    """Scores of each row of z [S, V], contiguous; with ``gradient`` z becomes onehot(target) - softmax(z)."""
    rows, vocabulary = z.shape
    if rows:
        strip = min(STRIP, triton.next_power_of_2(vocabulary))
        _logprob_rows[(rows,)](z, targets, logps, lse, entropy, correct, vocabulary, gradient, strip)
