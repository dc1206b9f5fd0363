"""From rehearsals with few layers to the memory of the whole model: everything is linear in the layers.

plan = predict((shallow, deep), layers=30, base=read().now, work=work)
print(plan.peak, plan.phases, plan.owners)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swift.plan.work import Work

LOAD, STEP, UPDATE, SAVE = 'load', 'forward and backward', 'optimizer step', 'save'
PHASES = (LOAD, STEP, UPDATE, SAVE)
WEIGHTS, MASTERS, GRADIENTS, OPTIMIZER = 'weights', 'full-precision copies', 'gradients', 'optimizer'
LOGITS, ACTIVATIONS, WORKSPACE, INTERPRETER = 'logits', 'activations', 'workspace', 'interpreter'
OWNERS = (INTERPRETER, WEIGHTS, MASTERS, GRADIENTS, OPTIMIZER, ACTIVATIONS, LOGITS, WORKSPACE)


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a rehearsal measured, in bytes beyond what its process held before the model came.

    ``before``: what that was. ``phases``: peak of each. ``owners``: what holds it at the peak of a step. ``mapped``:
    the part that stands in files. ``seconds``: the time of a token.
    """

    layers: int
    before: int
    phases: dict[str, int]
    owners: dict[str, int]
    mapped: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The memory and time of a run. ``base`` is what the process holds before the model comes, data included."""

    base: int
    phases: dict[str, int]
    owners: dict[str, int]
    mapped: int
    speed: float  # tokens a second; 0: not known
    work: Work
    measured: bool = True

    @property
    def peak(self) -> int:
        return max(self.phases.values())

    @property
    def seconds(self) -> float:
        """Time of all steps; 0 when it is not known."""
        return self.work.tokens / self.speed if self.speed else 0.0


def predict(rehearsed: Sequence[Rehearsed], *, layers: int, base: int | None, work: Work) -> Plan:
    """The run of a model with ``layers`` layers.

    Args:
        rehearsed: one with all layers, or two with fewer.
        base: what the run's process holds before the model comes, at least what the rehearsal held by then.
    """
    shallow, deep = rehearsed[0], rehearsed[-1]
    share = (layers - shallow.layers) / max(1, deep.layers - shallow.layers)
    base = max(base or 0, deep.before)
    line = lambda low, high: max(0.0, low + (high - low) * share)
    both = lambda name: (getattr(shallow, name), getattr(deep, name))
    merged = lambda low, high: {name: round(line(low[name], high[name])) for name in low}
    phases = {name: base + size for name, size in merged(*both('phases')).items()}
    seconds = line(*both('seconds'))
    return Plan(
        base,
        phases,
        {INTERPRETER: base, **merged(*both('owners'))},
        round(line(*both('mapped'))),
        1 / seconds if seconds else 0.0,
        work,
    )
