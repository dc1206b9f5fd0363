"""Rotary angles that are chosen by the length of a sequence: each sequence gets those of its own length.

transformers chooses them by the largest position of a whole forward pass. ``longrope`` has one set of frequencies up to
the original length and another beyond it; ``dynamic`` has a set for every length beyond, and keeps the longest that it
has seen. So in a pack or a batch a sequence would be turned by its neighbours' length.

Here every token has a *reach*, the length that its angles are chosen by, and the module that gives angles is asked
once for each kind of reach. Without more knowledge a reach is the end of the run of positions that the token is in:
a sequence of a pack, a row of a batch. ``reaching`` says it where a sequence is read in pieces.

Shapes: ``T`` tokens, ``R`` numbers of a head that turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

TRIAL = 12  # tokens
SAME = 1e-3
"""Largest relative difference of logits, in any dtype, that a neighbour's position may make: nothing but rounding."""


@dataclass(frozen=True, slots=True)
class Moving:
    """How the angles of a model depend on the length of a sequence.

    ``original``: up to this length they are the same. ``two``: so they are beyond it. ``again``: where an answer passes
    it, transformers' ``generate`` reads the whole sequence again; else older keys stay as they are.
    """

    original: int
    two: bool
    again: bool

    def kind(self, reach: int) -> int:
        """The shortest reach with the same angles, at least ``original``."""
        return min(max(reach, self.original), self.original + 1) if self.two else max(reach, self.original)

    def passed(self, reach: int, length: int) -> bool:
        """Whether a sequence that was read by ``reach`` is to be read again, now that it has ``length`` tokens."""
        return self.again and reach <= self.original < length


def install(model: PreTrainedModel) -> Moving | None:
    """Let each sequence have the angles of its own length. Returns how they move; None: they do not.

    Installing twice is installing once.
    """
    modules: list[Any] = list(model.modules())
    found = {module: bounds for module in modules if (bounds := _bounds(module))}
    if not found:
        return None
    kinds = {bound for bounds in found.values() for bound in bounds}
    original = min(length for _, length in kinds)
    moving = Moving(original, kinds == {('longrope', original)}, _reads_again(model, original))
    for module in found:
        if not moves(module):
            module.forward = _Apart(module, moving)
    return moving


def remove(model: nn.Module) -> None:
    """Undo ``install``."""
    for module in model.modules():
        if moves(module):
            del module.forward


def moves(module: nn.Module) -> bool:
    """Whether ``install`` changed what a module computes."""
    return isinstance(vars(module).get('forward'), _Apart)


def _bounds(module: Any) -> set[tuple[str, int]]:
    """The types of a module's angles that move, and up to which length they do not: as ``dynamic_rope_update`` asks."""
    types, config = getattr(module, 'rope_type', None), getattr(module, 'config', None)
    if types is None or config is None:
        return set()
    each = types if isinstance(types, dict) else {None: types}
    found = set()
    for layer, name in each.items():
        if 'dynamic' in str(name):
            found.add(('dynamic', module.original_max_seq_len))
        elif name == 'longrope':
            parameters = config.rope_parameters if layer is None else config.rope_parameters[layer]
            found.add((name, parameters['original_max_position_embeddings']))
    return found


def _reads_again(model: PreTrainedModel, original: int) -> bool:
    """Whether ``generate`` drops the keys of ``original`` tokens when one more comes, found by trial."""
    made: Any = model  # of a class that may have no such method
    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, original, 1), torch.zeros(1, 1, original, 1), 0)
    ids = torch.zeros(1, original + 1, dtype=torch.int64)
    try:
        prepared = made.prepare_inputs_for_generation(ids, past_key_values=cache, next_sequence_length=1)
    except (AttributeError, TypeError, ValueError):  # it does not generate
        return False
    return prepared['input_ids'].shape[1] > 1


# ------------------------------------------------------------------------------------------------------------- reaches
_REACHES: ContextVar[Tensor | None] = ContextVar('reaches', default=None)


@contextmanager
def reaching(reaches: Tensor) -> Iterator[None]:
    """Within, the tokens of a pass have these reaches, int64 of the shape of their positions."""
    token = _REACHES.set(reaches)
    try:
        yield
    finally:
        _REACHES.reset(token)


def ends(positions: Tensor) -> Tensor:
    """One more than the last position of the run of positions that each token is in; runs lie along the last axis."""
    count = positions.shape[-1]
    goes_on = positions[..., 1:] == positions[..., :-1] + 1
    last = torch.cat([~goes_on, torch.ones_like(positions[..., :1], dtype=torch.bool)], -1)
    at = torch.where(last, torch.arange(count, device=positions.device), count)
    return positions.gather(-1, at.flip(-1).cummin(-1).values.flip(-1)) + 1


class _Apart:
    """The forward of a module that gives angles: asked for each kind of reach as if there were no other."""

    def __init__(self, module: nn.Module, moving: Moving):
        self._module, self._moving = module, moving

    def __call__(self, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        moving = self._moving
        reaches = _REACHES.get()
        reaches = ends(position_ids) if reaches is None else reaches.expand(position_ids.shape)
        kinds = reaches.clamp(moving.original, moving.original + 1 if moving.two else None)
        ask = lambda positions: type(self._module).forward(self._module, x, positions, *args, **kwargs)
        short = torch.zeros_like(position_ids[..., :1])
        angles: tuple[Tensor, ...] = ()
        for kind in kinds.unique().tolist():
            here = kinds == kind
            ask(short)  # ``dynamic`` keeps the frequencies of the longest sequence until it sees a short one
            told = ask(torch.cat([position_ids * here, short + (kind - 1)], -1))
            angles = tuple(
                new[..., :-1, :].where(here[..., None], old)
                for new, old in zip(told, angles or (each[..., :-1, :] for each in told), strict=True)
            )
        ask(short)
        return angles


# --------------------------------------------------------------------------------------------------------------- proof
def sees_lengths(model: PreTrainedModel, longest: int) -> str | None:
    """Whether what a sequence says changes with how long another of its batch is. Returns None, or that it does.

    Tried by two rows of a few tokens, the second at positions near ``longest``. The classes of transformers itself are
    not tried: ``install`` knows their angles.
    """
    if type(model).__module__.startswith('transformers.'):
        return None
    device = next(model.parameters()).device
    ids = (
        torch.arange(2 * TRIAL, device=device).view(2, TRIAL) * 7919 + 13
    ) % model.config.get_text_config().vocab_size
    near = torch.arange(TRIAL, device=device)
    said = []
    with torch.no_grad():
        for start in (0, longest - TRIAL):
            positions = torch.stack([near, near + max(start, 0)])
            try:
                output = model(input_ids=ids, position_ids=positions, use_cache=False)
            except (TypeError, ValueError, RuntimeError, IndexError):  # it takes no positions, or not these
                return None
            said.append((output.logits if 'logits' in output else output.last_hidden_state)[0].double())
    difference = float((said[1] - said[0]).norm() / said[0].norm().clamp_min(1e-30))
    if difference > SAME:
        return f'its positions depend on the longest sequence of a batch (difference {difference:.1e})'
    return None
