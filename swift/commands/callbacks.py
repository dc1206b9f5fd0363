"""``callbacks=`` of the trainers: callbacks of transformers look on as a run moves, and may ask to log, save or stop.

They are called on_init_end, on_train_begin, on_step_end, on_log, on_evaluate, on_save and on_train_end. One that waits
for anything else is refused by name: it would never hear of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from swift.core.errors import ConfigError

if TYPE_CHECKING:
    from swift.train.track import Record
    from swift.train.trainer import Wish

HEARD = frozenset({
    'on_init_end', 'on_train_begin', 'on_step_end', 'on_log', 'on_evaluate', 'on_save', 'on_train_end',
})  # fmt: skip
WISHES: dict[str, Wish] = {
    'should_log': 'log',
    'should_evaluate': 'evaluate',
    'should_save': 'save',
    'should_training_stop': 'stop',
}
"""Fields of transformers' TrainerControl."""


class Callbacks:
    """A tracker and a watcher of a run that tells callbacks.

    Args:
        args: what callbacks are given as such: transformers' TrainingArguments, or an object with the flags of the run.
        known: what else they are given by keyword: ``model``, ``processing_class``.

    Raises:
        ConfigError: something that is no callback, or that waits for what does not happen here.
    """

    def __init__(self, callbacks: Sequence[Any], args: Any, known: Mapping[str, Any]):
        from transformers import TrainerControl, TrainerState

        self._all = [_checked(each() if isinstance(each, type) else each) for each in callbacks]
        self._args, self._known = args, known
        self.state, self.control = TrainerState(), TrainerControl()
        self._tell('on_init_end')

    def begin(self, *, steps: int | None = None) -> None:
        """The run starts."""
        self.state.max_steps = steps or 0
        self._tell('on_train_begin')

    def end(self) -> None:
        """The run is over."""
        self._tell('on_train_end')

    # ------------------------------------------------------------------------------------------------------- a tracker
    def log(self, step: int, record: Record) -> None:
        """A report, or the metrics of an evaluation, which both are logs."""
        self.state.epoch = record.get('epoch', self.state.epoch)
        if 'global_step/max_steps' in record:
            self.state.max_steps = int(str(record['global_step/max_steps']).partition('/')[2])
        self.state.log_history.append({**record, 'step': step})
        self._tell('on_log', logs=dict(record))
        if any(name.startswith('eval_') for name in record):
            self._tell('on_evaluate', metrics=dict(record))
            self._note_best(record)

    def close(self) -> None:
        """Nothing is held."""

    def _note_best(self, metrics: Record) -> None:
        """What EarlyStoppingCallback compares the next evaluation with."""
        name = str(self._args.metric_for_best_model or 'loss').removeprefix('eval_')
        value, best = metrics.get(f'eval_{name}'), self.state.best_metric
        greater = bool(self._args.greater_is_better)
        if value is not None and (best is None or (value > best if greater else value < best)):
            self.state.best_metric, self.state.best_global_step = value, self.state.global_step

    # ------------------------------------------------------------------------------------------------------- a watcher
    def stepped(self, step: int) -> list[Wish]:
        """What the callbacks want after this step, and wanted since the one before."""
        self.state.global_step = step
        self._tell('on_step_end')
        found = [wish for name, wish in WISHES.items() if getattr(self.control, name)]
        for name in WISHES.keys() - {'should_training_stop'}:
            setattr(self.control, name, False)
        return found

    def saved(self, step: int, folder: Path) -> None:
        """A checkpoint lies in ``folder``."""
        self._tell('on_save', checkpoint=str(folder))

    def _tell(self, event: str, **more: Any) -> None:
        for each in self._all:
            found = getattr(each, event)(self._args, self.state, self.control, **self._known, **more)
            self.control = found if found is not None else self.control


def attributes(flags: Mapping[str, Any]) -> SimpleNamespace:
    """The flags of a run as attributes, where Python gave no TrainingArguments."""
    return SimpleNamespace(**flags)


def _checked(callback: Any) -> Any:
    from transformers import TrainerCallback

    name = type(callback).__name__
    if not isinstance(callback, TrainerCallback):
        raise ConfigError(f'callbacks: {name} is no transformers.TrainerCallback')
    events = (event for event in vars(TrainerCallback) if event.startswith('on_'))
    changed = [event for event in events if getattr(type(callback), event) is not getattr(TrainerCallback, event)]
    if deaf := sorted(set(changed) - HEARD):
        heard = ', '.join(sorted(HEARD))
        raise ConfigError(f'callbacks: {name} waits for {", ".join(deaf)}, which is not told here; told are {heard}')
    return callback
