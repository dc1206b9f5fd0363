"""Attention over a pack with a dense mask in float64: what every kernel is held against."""

import torch

from swift.core.types import Segments


def mask(segments: Segments, window: int | None = None) -> torch.Tensor:
    """[T, T] whether a token (row) sees another: earlier on the chain of segments that its own continues."""
    count = len(segments.lengths)
    chain = torch.eye(count, dtype=torch.bool)
    for i, parent in enumerate(segments.parents):
        if parent >= 0:
            chain[i] |= chain[parent]
    segment = torch.repeat_interleave(torch.arange(count), torch.tensor(segments.lengths))
    spans = zip(segments.offsets, segments.lengths, strict=True)
    position = torch.cat([torch.arange(at, at + n) for at, n in spans])
    distance = position[:, None] - position[None, :]
    return chain[segment][:, segment] & (distance >= 0) & (distance < (window or segments.total + 1))


def attention(q, k, v, segments, *, scale, window=None, cap=None, sinks=None):
    """[1, H, T, D] and [1, K, T, D] to [1, T, H, D] in float64."""
    q, k, v = q.double(), k.double(), v.double()
    k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], 1) for each in (k, v))
    scores = q @ k.transpose(2, 3) * scale
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    scores = scores.masked_fill(~mask(segments, window), float('-inf'))
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[None, :, None, None].expand(*scores.shape[:3], 1)], -1)
    return (torch.softmax(scores, -1)[..., : q.shape[2]] @ v).transpose(1, 2)


def inputs(segments, heads, key_heads, width, dtype, *, seed=0):
    """q, k, v [1, heads, T, D] as transformers hands them (views of [1, T, heads, D]), and a gradient [1, T, H, D]."""
    random = torch.Generator().manual_seed(seed)
    draw = lambda count: torch.randn(1, segments.total, count, width, generator=random).to(dtype)
    q, k, v = (draw(count).transpose(1, 2).requires_grad_() for count in (heads, key_heads, key_heads))
    return q, k, v, draw(heads)


def compare(found, expected, arguments, grad, tolerance):
    """Relative norm of the difference of the outputs, and of each gradient."""
    found = [found, *torch.autograd.grad(found, arguments, grad)]
    expected = [expected, *torch.autograd.grad(expected, arguments, grad.double())]
    least = 0.5 * float(grad.double().norm())  # the gradient of a softmax over one key is zero
    for name, a, b in zip(('out', 'q', 'k', 'v', 'sinks'), found, expected, strict=False):
        a, b = a.detach().double(), b.detach().double()
        difference = float((a - b).norm() / b.norm().clamp_min(least))
        assert difference < tolerance, f'{name}: {difference:.1e}'
        assert a.isfinite().all(), name
