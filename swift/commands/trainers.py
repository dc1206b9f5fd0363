"""Alignment of models that Python holds: one class for each method, around the run that ``swift rlhf`` makes.

    trainer = DPOTrainer(model=model, processing_class=tokenizer, train_dataset=rows, beta=0.1, max_length=1024)
    trainer.train()
    trainer.save_model('aligned')

The model is trained in place, by the chain of the command line: rows > tokens > batches > objective > weights.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from swift.commands import configs, methods, sft, training_arguments
from swift.commands.arguments import FlatArguments
from swift.commands.callbacks import Callbacks, attributes
from swift.commands.prepare import InMemory, Prepared, make_template
from swift.core import config, files
from swift.core.errors import ConfigError
from swift.core.types import Builder, ModelInfo, Readout

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers.trainer_utils import TrainOutput

    from swift.train.track import Record

MEMORY = '<memory>'
"""What stands where a flag names what Python holds."""
HUB_ID = re.compile(r'[\w.-]+/[\w.-]+')
OURS = {'plan': 'off', 'hang_timeout': 0}
"""Flags that are otherwise than on the command line: a notebook is no run of its own."""
HELD = ('model', 'adapters', 'dataset', 'val_dataset', 'resume_from_checkpoint', 'rlhf_type')
"""Flags that are arguments of the constructor or of ``train``, or the class itself."""
LATER = (
    'optimizer_cls_and_kwargs', 'data_collator', 'compute_metrics', 'model_init', 'preprocess_logits_for_metrics',
    'reward_processing_classes', 'quantization_config', 'reward_funcs', 'rollout_func',
)  # fmt: skip
"""Arguments of other libraries' trainers that are refused unless they are None."""
NO_OPTIMIZERS = (
    'optimizers: weights are moved by --optim, which keeps fp32 copies and may step within the backward pass; an '
    "optimizer of yours knows neither. Give optim='adamw_torch', 'adafactor' ..., learning_rate, lr_scheduler_type"
)


@dataclass
class State:
    """How far training is. ``log_history`` are the records of logging.jsonl."""

    global_step: int = 0
    log_history: list[Record] = field(default_factory=list)
    best_model_checkpoint: str | None = None
    epoch: float = 0.0

    def log(self, step: int, record: Record) -> None:
        self.global_step, self.epoch = step, record['epoch']
        self.log_history.append({**record, 'step': step})

    def close(self) -> None:
        pass

    def mean_loss(self) -> float:
        """The loss of all steps: each record tells the mean since the one before."""
        total, before = 0.0, 0
        for record in self.log_history:
            if 'loss' in record:
                total += record['loss'] * (record['step'] - before)
                before = record['step']
        return total / max(1, before)


class AlignmentTrainer:
    """What the trainers share. Take one of the classes below.

    Args:
        model: a model of transformers or peft, which is trained in place, or an id or folder.
        ref_model: what it is compared with: a model, an id or a folder. None: the model without its adapter, or a
            copy of the model as it is now.
        args: ``transformers.TrainingArguments``, the configuration of TRL's trainer of the same name, or
            ``RLHFArguments``, or ours of the method, as DPOConfig.
        train_dataset: rows in any of the established formats: a ``datasets.Dataset``, a list of dicts, what
            ``swift.load_dataset`` returns, or text as ``--dataset`` takes it.
        eval_dataset: the same.
        processing_class: the tokenizer, ``tokenizer`` for short; None: that of the model's folder.
        template: how rows become tokens: what ``get_template`` returns, or a name; None: the tokenizer's own.
        peft_config: an adapter to put on the model.
        callbacks: ``transformers.TrainerCallback``s, told of logs, steps, evaluations and checkpoints; see
            ``swift.commands.callbacks``.
        flags: any other flag of ``swift rlhf``; they go before ``args``.

    Raises:
        ConfigError: with every argument that is unknown, wrong or not built yet.
    """

    method: ClassVar[str]
    """Its ``--rlhf_type``."""
    takes: ClassVar[tuple[str, ...]]
    """Flags of the objective that mean something to it."""

    def __init__(
        self,
        model: nn.Module | str,
        *,
        ref_model: nn.Module | str | None = None,
        args: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        tokenizer: Any = None,
        template: Any = None,
        peft_config: Any = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: Any = None,
        **flags: Any,
    ):
        if optimizers is not None and any(each is not None for each in optimizers):
            raise ConfigError(NO_OPTIMIZERS)
        self._check_arguments(args)
        self.args, self.train_dataset, self.eval_dataset = args, train_dataset, eval_dataset
        self.state = State()
        self._template = template
        given = training_arguments.flags(args) | self._checked(flags)
        given['tuner_type'] = _tuner(model, peft_config, given)
        for name, value in (('ref_model', ref_model), ('template', template)):
            if isinstance(value, str):
                given[name] = value
        self._given = {**OURS, **given, 'rlhf_type': self.method, 'model': _name(model), 'dataset': [MEMORY]}
        if self._given['model'] == MEMORY:
            self._given.setdefault('output_dir', f'output/{self.method}')
        if eval_dataset is not None:
            self._given['val_dataset'] = [MEMORY]
        self._cfg = configs.resolve('rlhf', self._given)
        tokenizer = processing_class or tokenizer or getattr(template, 'tokenizer', None)
        builder = self._builder(model, tokenizer)
        self.processing_class = self.tokenizer = builder.tokenizer
        self.model = self._learning(builder.build(), peft_config)
        self._built = replace(builder, build=lambda: self.model)
        self._memory = self._beside(ref_model)
        self._check_template()
        self._run: Path | None = None
        known = {'model': self.model, 'processing_class': self.processing_class}
        self._callbacks = Callbacks(callbacks or (), self._told(args), known)

    # --------------------------------------------------------------------------------------------------- what it does
    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainOutput:
        """Train ``model`` in place.

        Args:
            resume_from_checkpoint: a checkpoint of this run to go on from; True finds the last.

        Returns:
            (global_step, training_loss, metrics), as transformers' trainer does.

        Raises:
            SwiftError: as ``swift rlhf``.
        """
        from transformers.trainer_utils import TrainOutput

        if self.train_dataset is None:
            raise ConfigError(f'{type(self).__name__}: train_dataset is missing')
        cfg, self.state = self._cfg, State()
        if resume_from_checkpoint:
            wanted = 'last' if resume_from_checkpoint is True else str(resume_from_checkpoint)
            cfg = configs.resolve('rlhf', {**self._given, 'resume_from_checkpoint': wanted})
        started = time.perf_counter()
        heard = self._callbacks
        heard.begin()
        try:
            last = sft.main(cfg, prepared=self._prepared, trackers=[self.state, heard], watchers=[heard])
        finally:
            self._release()
        heard.end()
        if last is not None:
            self._run = last.parent
            self._take_best(cfg, last)
        seconds, loss = time.perf_counter() - started, self.state.mean_loss()
        steps = self.state.global_step
        speed = {'train_runtime': seconds, 'train_steps_per_second': steps / seconds}
        return TrainOutput(steps, loss, {**speed, 'train_loss': loss, 'epoch': self.state.epoch})

    def evaluate(self, eval_dataset: Any = None) -> dict[str, float]:
        """Metrics of the model as it is over ``eval_dataset``, or that of the constructor; ``eval_loss`` is one."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if rows is None and not self._cfg.data.split_dataset_ratio:
            raise ConfigError(f'{type(self).__name__}: eval_dataset is missing')
        try:
            metrics = sft.evaluate(self._cfg, self._prepared(self._cfg, evaluated=rows))
        finally:
            self._release()
        self.state.log_history.append({**metrics, 'step': self.state.global_step})
        return metrics

    def save_model(self, output_dir: str | Path | None = None) -> Path:
        """Write the model as others open it (for an adapter a peft folder), its tokenizer and its settings.

        Args:
            output_dir: a folder that does not exist yet; None: ``model`` in the folder of the last run.
        """
        if output_dir is None and self._run is None:
            raise ConfigError('save_model: nothing was trained and saved yet; name a folder')
        folder = Path(output_dir) if output_dir is not None else self._run / 'model'  # type: ignore[operator]
        with files.commit(folder) as temp:
            sft.write(self._cfg, self._prepared(self._cfg), self.model, temp)
        return folder

    # ------------------------------------------------------------------------------------------------------ its parts
    def _checked(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Keywords that are flags of this method."""
        problems = []
        others = {name for kind in METHODS for name in kind.takes} - set(self.takes)
        for name, value in flags.items():
            if name in HELD:
                problems.append(f'{name}: an argument of the constructor, of train(), or another class')
            elif name in LATER and value is not None:
                problems.append(f'{name}: not built yet; leave it out')
            elif name in others:
                whose = ', '.join(kind.__name__ for kind in METHODS if name in kind.takes)
                problems.append(f'{name}: means nothing to {type(self).__name__}; it belongs to {whose}')
        if problems:
            raise ConfigError(problems)
        return {name: value for name, value in flags.items() if name not in LATER}

    def _check_arguments(self, args: Any) -> None:
        """Refuse the configuration of another method."""
        other = args.method if isinstance(args, FlatArguments) else ''
        if other and other != self.method:
            raise ConfigError(f'args: {type(args).__name__} is for {_trainer_of(other)}, not for {type(self).__name__}')

    def _told(self, args: Any) -> Any:
        """What callbacks are given as args."""
        from transformers import TrainingArguments

        return args if isinstance(args, TrainingArguments) else attributes(config.dump(self._cfg).args)

    def _builder(self, model: nn.Module | str, tokenizer: Any) -> Builder:
        """The model with what is known of it. Raises ConfigError when it has the wrong head for this method."""
        from swift import models

        if isinstance(model, str):
            builder = models.load(self._cfg.model)
            return builder if tokenizer is None else replace(builder, tokenizer=tokenizer)
        builder = described(model, tokenizer)
        head = methods.METHODS[self.method].task is not None
        if head and (builder.readout is None or builder.info.config.num_labels != 1):
            raise ConfigError(
                f'{type(self).__name__}: {builder.info.architecture} gives no single score; load the model with '
                'AutoModelForSequenceClassification and num_labels=1, or give its folder'
            )
        if not head and builder.readout is not None:
            raise ConfigError(f'{type(self).__name__}: {builder.info.architecture} is no language model')
        return builder

    def _learning(self, model: nn.Module, peft_config: Any) -> nn.Module:
        """The model with the adapter that was asked for, and without the dropout that TRL leaves out.

        Raises:
            ConfigError: two adapters, or one that cannot be trained here.
        """
        from swift.models.peft import PeftModel, for_layers_of, get_peft_model
        from swift.tuners import lora

        sft.seed_everything(self._cfg.train.seed)
        has_adapter = isinstance(model, PeftModel)
        if has_adapter and peft_config is not None:
            raise ConfigError('peft_config: the model has an adapter already; merge it, or leave peft_config out')
        if peft_config is not None:
            with for_layers_of(model):
                model = get_peft_model(model, peft_config, autocast_adapter_dtype=False)  # type: ignore[arg-type]
        elif not has_adapter and self._cfg.tuner.tuner_type == 'lora':
            model = lora.attach(model, self._cfg.tuner)
        if isinstance(model, PeftModel):
            _check_adapter(model)
        elif getattr(model, 'is_quantized', False):
            raise ConfigError('model: quantised weights cannot learn; give peft_config')
        if getattr(self.args, 'disable_dropout', False):
            _still_(model)
        return model

    def _beside(self, ref_model: Any) -> InMemory:
        """What the model is compared with, where it is in memory."""
        from swift.objectives.streams import REFERENCE
        from swift.train import fingerprint

        needed = REFERENCE in methods.objective(self._cfg).needs
        if ref_model is not None and not needed:
            raise ConfigError(f'ref_model: {type(self).__name__} with these arguments has no reference; leave it out')
        if ref_model is self.model:
            raise ConfigError('ref_model: it is the model that is trained; leave it out to compare with its start')
        digest = fingerprint.of_model(self.model)
        if needed and ref_model is None and self._cfg.tuner.tuner_type == 'full':
            ref_model = copy.deepcopy(self.model)
        if ref_model is None or isinstance(ref_model, str):
            return InMemory(digest)
        if getattr(self.args, 'disable_dropout', False):
            _still_(ref_model)
        return InMemory(digest, reference=replace(described(ref_model, self.tokenizer), build=lambda: ref_model))

    def _prepared(self, cfg: Any, *, now: datetime | None = None, evaluated: Any = None) -> Prepared:
        """What ``swift rlhf`` finds by flags; ``evaluated`` are other rows to evaluate on."""
        template, method = getattr(self._template, 'template', self._template), methods.method(cfg)
        if template is None or isinstance(template, str):
            template = make_template(cfg, self._built, reads=method.reads, now=now)
        length = template.truncate.length or self._built.info.max_model_len
        train, val = _rows(cfg, self.train_dataset, self.eval_dataset if evaluated is None else evaluated)
        return Prepared(self._built, template, length, train, val, method.rows, method.how(cfg), self._memory)

    def _check_template(self) -> None:
        """Refuse a length that a template which is there already would not keep to."""
        asked, own = self._cfg.template.max_length, getattr(self._template, 'truncate', None)
        if own is not None and asked not in (None, own.length):
            raise ConfigError(f'max_length {asked}: the template has {own.length}; give the length to get_template')

    def _release(self) -> None:
        """Give models that were only compared with back as they came."""
        from swift.kernels import switch

        for each in (self._memory.reference, self._memory.teacher):
            if each is not None:
                switch.detach(each.build())

    def _take_best(self, cfg: Any, last: Path) -> None:
        """Let the state name the best checkpoint, and the model take its weights if that was asked for."""
        best = last.parent / 'best'
        if not best.exists():
            return
        self.state.best_model_checkpoint = str(best.resolve())
        if cfg.train.load_best_model_at_end:
            _take_(self.model, sft.saved_weights(self.model, best))


class DPOTrainer(AlignmentTrainer):
    """Direct preference optimisation and its family; see ``AlignmentTrainer``.

    Rows have a chosen and a rejected answer.
    Keywords of its own: ``beta``, ``loss_type`` (one or several), ``loss_weights``, ``label_smoothing``, ``rpo_alpha``,
    ``ld_alpha``, ``f_divergence_type``, ``f_alpha_divergence_coef``, ``reference_free``, ``discopop_tau``.
    """

    method = 'dpo'
    takes = (
        'beta', 'loss_type', 'loss_weights', 'label_smoothing', 'rpo_alpha', 'ld_alpha', 'f_divergence_type',
        'f_alpha_divergence_coef', 'reference_free', 'discopop_tau',
    )  # fmt: skip


class KTOTrainer(AlignmentTrainer):
    """KTO; see ``AlignmentTrainer``. Rows have one answer and ``label``, whether it was wanted.

    Keywords of its own: ``beta``, ``loss_type``, ``desirable_weight``, ``undesirable_weight``.
    """

    method = 'kto'
    takes = ('beta', 'loss_type', 'desirable_weight', 'undesirable_weight')


class CPOTrainer(AlignmentTrainer):
    """CPO, and SimPO with ``loss_type='simpo'``; see ``AlignmentTrainer``. Rows as for DPOTrainer; no reference.

    Keywords of its own: ``beta``, ``loss_type``, ``label_smoothing``, ``cpo_alpha``, ``simpo_gamma``.
    """

    method = 'cpo'
    takes = ('beta', 'loss_type', 'label_smoothing', 'cpo_alpha', 'simpo_gamma')


class ORPOTrainer(AlignmentTrainer):
    """ORPO; see ``AlignmentTrainer``. Rows as for DPOTrainer; no reference. Keyword of its own: ``beta``."""

    method = 'orpo'
    takes = ('beta',)


class RewardTrainer(AlignmentTrainer):
    """A reward model; see ``AlignmentTrainer``. Rows as for DPOTrainer, perhaps with ``margin``.

    ``model`` is one of AutoModelForSequenceClassification with one label; of a folder without a head, one is made.
    Keyword of its own: ``center_rewards_coefficient``.
    """

    method = 'rm'
    takes = ('center_rewards_coefficient',)


class GKDTrainer(AlignmentTrainer):
    """Distillation; see ``AlignmentTrainer``. Rows have a question and, unless the student writes it, an answer.

    ``teacher_model`` is a model, an id or a folder; None, for an adapter, is the model without it. Keywords of its own:
    ``beta``, ``lmbda``, ``seq_kd``, ``sft_alpha``, ``temperature``, ``max_completion_length``, ``gkd_logits_topk``,
    ``teacher_adapters``, ``teacher_model_server``.
    """

    method = 'gkd'
    takes = (
        'beta', 'teacher_model', 'teacher_adapters', 'teacher_model_type', 'teacher_model_revision', 'lmbda', 'seq_kd',
        'teacher_model_server', 'gkd_logits_topk', 'sft_alpha', 'temperature', 'max_completion_length',
    )  # fmt: skip

    def __init__(self, model: nn.Module | str, *, teacher_model: nn.Module | str | None = None, **arguments: Any):
        own = teacher_model is None and _tuner(model, arguments.get('peft_config'), arguments) == 'lora'
        if own and 'teacher_model_server' not in arguments:
            arguments['teacher_model'] = _name(model)
        elif teacher_model is not None:
            arguments['teacher_model'] = _name(teacher_model)
        super().__init__(model, **arguments)
        if teacher_model is not None and not isinstance(teacher_model, str):
            builder = replace(described(teacher_model, self.tokenizer), build=lambda: teacher_model)
            self._memory = replace(self._memory, teacher=builder)


METHODS: tuple[type[AlignmentTrainer], ...] = (
    DPOTrainer, KTOTrainer, CPOTrainer, ORPOTrainer, RewardTrainer, GKDTrainer,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- helpers
def described(model: Any, tokenizer: Any = None) -> Builder:
    """A model that is in memory, with what can be known of it.

    Raises:
        ConfigError: it is no model of transformers or peft, or there is no tokenizer.
    """
    from transformers import PreTrainedModel

    from swift.models import heads
    from swift.models.info import max_length

    base = model.get_base_model() if hasattr(model, 'get_base_model') else model
    if not isinstance(base, PreTrainedModel):
        raise ConfigError(f'model: expected a model of transformers or peft, or its name; got {type(model).__name__}')
    name = base.name_or_path or ''
    tokenizer = tokenizer or _tokenizer(name)
    own = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ''
    info = ModelInfo(
        path=Path(name),
        id=name or MEMORY,
        model_type=base.config.model_type,
        architecture=type(base).__name__,
        dtype=str(base.dtype).removeprefix('torch.'),
        max_model_len=max_length(base.config.get_text_config().to_dict()),
        thinking='enable_thinking' in own,
        config=base.config,
    )
    readout = Readout('head') if info.architecture.endswith(heads.CLASSIFIER) else None
    return Builder(info, tokenizer, lambda: model, readout)


def _tokenizer(name: str) -> Any:
    """The tokenizer that lies beside the model's weights."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(f'processing_class is missing, and {name or "the model"} names no tokenizer') from error


def _trainer_of(method: str) -> str:
    return next(kind.__name__ for kind in METHODS if kind.method == method)


def _tuner(model: Any, peft_config: Any, given: Mapping[str, Any]) -> str:
    """What learns: the adapter that is there or asked for, or whatever of the model wants gradients."""
    from swift.models.peft import PeftModel

    adapted = peft_config is not None or isinstance(model, PeftModel)
    return 'lora' if adapted else str(given.get('tuner_type', 'full'))


def _name(model: Any) -> str:
    """What a run writes down as its model."""
    if isinstance(model, str):
        return model
    name = str(getattr(getattr(model, 'config', None), '_name_or_path', '') or '')
    return name if HUB_ID.fullmatch(name) or (name and Path(name).exists()) else MEMORY


def _check_adapter(model: Any) -> None:
    """Refuse adapters that the run could not compute or would not save."""
    if model.active_peft_config.is_prompt_learning:
        raise ConfigError(f'peft_config: {model.active_peft_config.peft_type} puts tokens of its own before each row')
    if model.active_adapter != 'default':
        raise ConfigError(
            f"model: its adapter is called {model.active_adapter!r}; the one that learns must be 'default'"
        )


def _still_(model: nn.Module) -> None:
    """No dropout, as TRL's configurations have it unless told otherwise."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _take_(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Let the model have these weights."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])


def _rows(cfg: Any, train: Any, val: Any) -> tuple[Any, Any]:
    """Rows to train and to evaluate on, as swift.data has them.

    Raises:
        ConfigError: they have no length, or are several by name.
    """
    from swift import data
    from swift.data.stream import Stream

    theirs: dict[str, list[Any]] = {'dataset': [], 'val_dataset': []}
    for flag, given in zip(theirs, (train, val), strict=True):
        if isinstance(given, Mapping):
            raise ConfigError(f'{flag}: several by name are not built yet; give one')
        if given is None or isinstance(given, data.Dataset | Stream):
            continue
        if not isinstance(given, str) and not (hasattr(given, '__len__') and hasattr(given, '__getitem__')):
            raise ConfigError(f'{flag}: {type(given).__name__} has no length; give a Dataset, a list or a file')
        theirs[flag] = [given]
    ratio = cfg.data.split_dataset_ratio if val is None else 0.0
    if ratio and not theirs['dataset']:
        raise ConfigError('split_dataset_ratio: give it to load_dataset, which made these rows')
    loaded = data.load(replace(cfg.data, **theirs, split_dataset_ratio=ratio), use_hf=cfg.model.use_hf)
    return loaded.train if theirs['dataset'] else train, loaded.val if theirs['val_dataset'] or ratio else val
