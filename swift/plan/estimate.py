"""Memory of a run from config.json and a few flags, for runs that were not rehearsed: good to a third, no better.

    estimate(text_config, Run(dtype='bfloat16', rank=8), work, base=350_000_000)

Weights, gradients and optimizer follow from the shapes of a decoder layer; what the backward pass keeps is counted in
widths of a token, read off rehearsals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swift.plan.predict import (
    ACTIVATIONS,
    GRADIENTS,
    INTERPRETER,
    LOAD,
    LOGITS,
    MASTERS,
    OPTIMIZER,
    STEP,
    UPDATE,
    WEIGHTS,
    WORKSPACE,
    Plan,
)
from swift.plan.shrink import depth
from swift.plan.work import Work

BYTES = {'float32': 4, 'bfloat16': 2, 'float16': 2}
KEPT = 10  # numbers that a token keeps in a layer, in widths of the model; attention and MLP are counted apart
HEAD = 2**28  # bytes of logits at a time, at most: they come in chunks
SPARE = 3 * 10**8  # libraries that come with the first step, compiled products, what the heap does not give back


@dataclass(frozen=True, slots=True)
class Run:
    """The flags that memory follows from.

    ``rank`` 0: everything learns. ``bits``: of quantised weights. ``gradients``: whether all are held at once.
    """

    dtype: str = 'bfloat16'
    rank: int = 8
    bits: int | None = None
    recompute: bool = False
    gradients: bool = True


@dataclass(frozen=True, slots=True)
class Layer:
    """Widths of a decoder layer: the model's, of queries, of keys and values together, and of the MLP."""

    width: int
    queries: int
    keys: int
    hidden: int

    @property
    def parameters(self) -> int:
        return self.width * (2 * self.queries + self.keys + 3 * self.hidden)

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA beside every linear layer."""
        attention = 4 * self.width + 2 * self.queries + self.keys
        return rank * (attention + 3 * (self.width + self.hidden))

    @property
    def kept(self) -> int:
        """Numbers that a token keeps for the backward pass."""
        return KEPT * self.width + 4 * self.queries + 3 * self.keys + 6 * self.hidden


def estimate(text: dict[str, Any], run: Run, work: Work, *, base: int) -> Plan:
    """The plan of a decoder-only model. ``text`` is the config of its language part."""
    layers, layer, vocabulary = depth(text) or 1, _layer(text), _number(text, 'vocab_size')
    size, worst = BYTES[run.dtype], work.worst
    learning = layers * layer.adapters(run.rank) if run.rank else sum(_parameters(text))
    masters = 0 if size == 4 or run.rank else 4 * learning
    kept = layer.width * layers + layer.kept if run.recompute else layer.kept * layers
    owners = {
        INTERPRETER: base,
        WEIGHTS: weights(text, run),
        MASTERS: masters,
        GRADIENTS: 4 * learning if run.gradients else 0,
        OPTIMIZER: 8 * learning,
        ACTIVATIONS: worst.tokens * kept * size,
        LOGITS: min(HEAD, worst.targets * vocabulary * 4),
        WORKSPACE: SPARE,
    }
    total = sum(owners.values())
    standing = total - owners[ACTIVATIONS] - owners[LOGITS]
    return Plan(
        base, {LOAD: base + owners[WEIGHTS] + masters, STEP: total, UPDATE: standing}, owners, 0, 0.0, work, False
    )


def weights(text: dict[str, Any], run: Run) -> int:
    """Bytes of the weights of a decoder-only model."""
    around, inside = _parameters(text)
    size = BYTES[run.dtype]
    return round(around * size + inside * (run.bits / 8 if run.bits else size))


def _parameters(text: dict[str, Any]) -> tuple[int, int]:
    """Those of the embeddings and the head, and those of the layers."""
    layer = _layer(text)
    around = _number(text, 'vocab_size') * layer.width * (1 if text.get('tie_word_embeddings', False) else 2)
    return around, (depth(text) or 1) * layer.parameters


def _layer(text: dict[str, Any]) -> Layer:
    width = _number(text, 'hidden_size', 'n_embd', 'd_model')
    heads = _number(text, 'num_attention_heads', 'n_head') or 1
    head = _number(text, 'head_dim') or width // heads
    keys = 2 * head * (_number(text, 'num_key_value_heads') or heads)
    return Layer(width, heads * head, keys, _number(text, 'intermediate_size', 'n_inner') or 4 * width)


def _number(text: dict[str, Any], *names: str) -> int:
    """The first of these that is a number; some configs have lists or nothing there."""
    return next((text[name] for name in names if isinstance(text.get(name), int)), 0)
