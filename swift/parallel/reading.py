"""What a task reads of whole sequences: hidden states of a pass become scores or embeddings, never logits of all words.

Shapes: ``T`` tokens, ``N`` sequences, ``C`` scores, ``d`` width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from swift.core.types import Batch, Outputs, Readout
from swift.kernels import head
from swift.kernels.head import Tap
from swift.kernels.logprobs import wide
from swift.parallel import layout

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of scores, relative to their size, that is taken for rounding."""
PROBE = 7  # tokens
HEADS = ('score', 'classifier')
"""Names of linear heads that read one hidden state."""


def _last(hidden: Tensor) -> Tensor:
    return hidden[-1]


def _weighted_mean(hidden: Tensor) -> Tensor:
    weight = torch.arange(1, len(hidden) + 1, device=hidden.device, dtype=hidden.dtype)[:, None]
    return (hidden * weight).sum(0) / weight.sum()


POOLING: dict[str, Callable[[Tensor], Tensor]] = {
    'cls': lambda hidden: hidden[0],
    'max': lambda hidden: hidden.amax(0),
    'mean': lambda hidden: hidden.mean(0),
    'mean_sqrt_len_tokens': lambda hidden: hidden.sum(0) / len(hidden) ** 0.5,
    'weightedmean': _weighted_mean,
    'lasttoken': _last,
}
"""Hidden states of one sequence, [L, d], to [d]: the modes of sentence-transformers."""


class Reader:
    """Reads the sequences of batches that ``base`` computes.

    ``body`` is the part of the model that gives hidden states. ``own_forward`` True: the head looks at sequences in a
    way of its own (BERT's first token, say), so each goes through the model's forward alone.
    """

    def __init__(self, base: PreTrainedModel, readout: Readout):
        self.base, self.readout = base, readout
        self.body = cast(PreTrainedModel, base.base_model)
        self._tap: Tap | None = None
        if readout.kind == 'tokens' and isinstance(found := head.tap(base), Tap):
            self._tap = found
        self.own_forward = readout.kind != 'pooled' and not self._agrees()

    @property
    def shares(self) -> bool:
        """Whether what sequences begin with may be computed once: only their last tokens are read."""
        return self.readout.kind != 'pooled' or self.readout.pooling == ('lasttoken',)

    def __call__(self, hidden: Tensor, batch: Batch) -> Outputs:
        """Outputs of a batch from its hidden states, [T, d]."""
        if self.readout.kind == 'pooled':
            return Outputs(pooled=self._pooled(hidden, batch))
        last = torch.tensor(layout.ends(batch.segments), device=hidden.device)  # [N]
        return Outputs(scores=self._scores(hidden[self._before_padding(last, batch.input_ids)]))

    def of_forward(self, inputs: dict[str, Any], model: nn.Module) -> Outputs:
        """Outputs of one sequence by the model's whole forward."""
        logits = model(input_ids=inputs['input_ids']).logits
        return Outputs(scores=self._of_logits(logits))

    # --------------------------------------------------------------------------------------------------------- parts
    def _scores(self, hidden: Tensor) -> Tensor:
        """[N, d] -> [N, C]"""
        if self._tap is None:
            scores = self._linear()(hidden)
            return scores.to(wide(scores.dtype))
        made, (yes, no) = self._tap.head, self.readout.tokens
        two = [yes, no]
        bias = None if made.bias is None else made.bias[two].to(wide(hidden.dtype))
        dtype = wide(hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(hidden.to(dtype), made.weight[two].to(dtype), bias) * made.scale  # [N, 2]
        logits = logits if made.cap is None else (logits / made.cap).tanh() * made.cap
        return logits[:, :1] - logits[:, 1:]

    def _linear(self) -> nn.Module:
        return next(getattr(self.base, name) for name in HEADS if hasattr(self.base, name))

    def _before_padding(self, last: Tensor, ids: Tensor) -> Tensor:
        """The last token that is not the one for padding, as classifiers of transformers have it."""
        pad = self.base.config.get_text_config().pad_token_id
        return last if pad is None or self.readout.kind != 'head' else last - (ids[last] == pad).long()

    def _pooled(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[T, d] -> [N, d x modes]"""
        modes, hidden = self.readout.pooling, hidden.to(wide(hidden.dtype))
        if modes == ('lasttoken',):
            found = hidden[torch.tensor(layout.ends(batch.segments), device=hidden.device)]
        else:
            assert not batch.segments.prefix_of, 'each sequence is whole'
            sequences = hidden.split(batch.segments.lengths)
            found = torch.stack([torch.cat([POOLING[mode](each) for mode in modes]) for each in sequences])
        return F.normalize(found, dim=-1) if self.readout.normalize else found

    def _of_logits(self, logits: Tensor) -> Tensor:
        """[1, C] of a classifier, or [1, T, V] of a language model -> [1, C]"""
        if self.readout.kind == 'tokens':
            yes, no = (logits[:, -1, token] for token in self.readout.tokens)
            logits = (yes - no)[:, None]
        return logits.to(wide(logits.dtype))

    def _agrees(self) -> bool:
        """Whether head and hidden states give what the model's own forward does, on a few tokens."""
        if self._tap is None and (self.readout.kind == 'tokens' or not any(hasattr(self.base, name) for name in HEADS)):
            return False
        size = self.base.config.get_text_config().vocab_size
        ids = (torch.arange(PROBE, device=self.base.device) * 31 + 5)[None] % size
        training = self.base.training
        self.base.eval()
        try:
            with torch.no_grad():
                expected = self._of_logits(self.base(input_ids=ids).logits)
                hidden = self.body(input_ids=ids).last_hidden_state[0]
                last = torch.tensor([PROBE - 1], device=ids.device)
                found = self._scores(hidden[self._before_padding(last, ids[0])])
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError):  # a head that wants something else
            return False
        finally:
            self.base.train(training)
        if found.shape != expected.shape:
            return False
        difference = (found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
        return float(difference) <= TOLERANCE[self.base.dtype]
