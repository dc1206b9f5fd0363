"""swift sft and swift pt: rows become samples, samples tokens, tokens a loss, a loss moves weights.

prepare > tuner > backend > source > Trainer.fit > checkpoint
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.commands import configs, distillation, methods, planned, reference, summary
from swift.commands.configs import SftConfig
from swift.commands.prepare import Prepared, prepare
from swift.core import config as configuration
from swift.core import files
from swift.core.errors import ConfigError
from swift.core.log import get_logger
from swift.models import heads
from swift.plan import allocator

if TYPE_CHECKING:
    from torch import Tensor, nn

    from swift.core.types import Builder
    from swift.data.source import Evaluation, Source
    from swift.parallel.one_device import TorchBackend
    from swift.parallel.settings import Settings
    from swift.train.signals import Signals
    from swift.train.track import Tracker
    from swift.train.trainer import Pace, Watcher
    from swift.train.watchdog import Watchdog

logger = get_logger(__name__)

Prepare = Callable[..., Prepared]
"""(cfg, now=the date that templates print) -> Prepared, as ``prepare``."""
CPU_TOKENS = 2048
"""Tokens in a micro-batch on a CPU unless a flag says otherwise: fewer leave its matrix units idle. The step is the
same whatever the micro-batches are."""
START_BUDGET = 86400.0
"""Seconds that loading, downloading and tokenising may take: they give no sign of life."""
FINGERPRINTED = (
    'seed', 'optim', 'learning_rate', 'weight_decay', 'adam_beta1', 'adam_beta2', 'adam_epsilon', 'max_grad_norm',
    'lr_scheduler_type', 'lr_scheduler_kwargs', 'warmup_ratio', 'warmup_steps', 'neftune_noise_alpha', 'bf16', 'fp16',
    'per_device_train_batch_size', 'gradient_accumulation_steps', 'enable_dft_loss',
)  # fmt: skip
"""Settings of training that the next step depends on."""
READING = ('quant_bits', 'bnb_4bit_compute_dtype', 'bnb_4bit_quant_type', 'bnb_4bit_use_double_quant', 'rope_scaling')
"""Settings that decide what the weights of a model compute."""


def sft_main(args: Any = None) -> Path | None:
    """Fine-tune as ``swift sft`` does.

    Args:
        args: an argument list, a configuration or SftArguments, or None for the command line.

    Returns:
        The last checkpoint, or None when none was asked for.
    """
    return main(configs.resolve('sft', args))


def main(
    cfg: SftConfig, *, prepared: Prepare = prepare, trackers: Sequence[Tracker] = (), watchers: Sequence[Watcher] = ()
) -> Path | None:
    """Train and return the last checkpoint.

    Args:
        prepared: finds model, template and rows; another one takes what Python holds in memory.
        trackers: told what is reported, beside those of ``--report_to``.
        watchers: told of every step and checkpoint.
    """
    from swift.train import checkpoint, folder
    from swift.train.resume import home
    from swift.train.signals import Signals
    from swift.train.watchdog import Watchdog

    allocator.steady()
    budget = cfg.train.hang_timeout
    with Signals() as signals:
        output, resumed = Path(str(cfg.train.output_dir)), None
        if wanted := cfg.train.resume_from_checkpoint:
            resumed = checkpoint.resolve(wanted, output, weights_only=cfg.train.resume_only_model)
        goes_on = resumed is not None and not cfg.train.resume_only_model
        run = (home(resumed, output) if goes_on else None) or folder.new(output, versioned=cfg.train.add_version)
        with files.lock(run), files.explained(run, foreign=True), Watchdog(run, budget=budget) as watchdog:
            watchdog.beat('preparing', budget=START_BUDGET)
            return _train(cfg, run, resumed, signals, watchdog, prepared, trackers, watchers)


def _train(
    cfg: SftConfig, run: Path, resumed: Path | None, signals: Signals, watchdog: Watchdog,
    prepared: Prepare, trackers: Sequence[Tracker], watchers: Sequence[Watcher],
) -> Path | None:  # fmt: skip
    """The chain, in the order in which mistakes are cheapest to find: rows and tokens before weights."""
    from swift.train import oom, rehearsal, resume
    from swift.train.trainer import Trainer

    started = _start_of(resumed)
    choose_micro_batches(cfg)
    ready = prepared(cfg, now=started)
    source, evaluation = _sources(cfg, ready)
    pace = _pace(cfg, source)
    summary.data(source, evaluation, ready)
    share = planned.foresee(cfg, ready.builder.info.path, source, pace.steps, device(use_cpu=cfg.train.use_cpu))
    if cfg.train.selective_recompute is None and (share or 0.0) > rehearsal.NEAR:
        cfg.put('selective_recompute', True, 'derived')
    _write_run_files(cfg, run, ready)
    backend: TorchBackend | None = None
    held = lambda: oom.of_model(backend.model, backend.optimizer) if backend else {}
    with oom.explained(held, configuration.dump(cfg).args), ExitStack() as after:
        watchdog.beat('loading the model', budget=START_BUDGET)
        seed_everything(cfg.train.seed)
        backend = _backend(cfg, ready, pace)
        after.callback(backend.close)
        objective = methods.objective(cfg)
        rows = [source] if evaluation is None else [source, evaluation]
        compared = reference.load(cfg, ready, objective, backend, rows, watchdog.beat)
        steps = distillation.begin(cfg, ready, objective, backend, source)
        if resumed and cfg.train.resume_only_model:
            _take_weights(backend, resumed)
        summary.model(backend, ready.builder.info, shared=source.lint.stats.shared)
        now = _fingerprint(cfg, ready, pace, backend, started)
        save = resume.saver(
            run, backend, steps,
            fingerprint=now, extras=partial(_write_extras, cfg, ready), limit=cfg.train.save_total_limit,
            weights_only=cfg.train.save_only_model,
        )  # fmt: skip
        progress = None
        if resumed and not cfg.train.resume_only_model:
            progress = resume.load(
                resumed, backend, steps,
                fingerprint=now, run=run, allow_changes=cfg.train.resume_changed == 'allow',
            )  # fmt: skip
        summary.start(run, pace, progress)
        trackers = [*_trackers(cfg, run), *trackers]
        for tracker in trackers:
            after.callback(tracker.close)
        rehearsed = rehearsal.wanted(cfg.train.rehearse, device=backend.device.type, steps=pace.steps, share=share)
        done = Trainer(
            backend, objective, steps, pace,
            reference=compared,
            trackers=trackers,
            watchers=watchers,
            evaluate_on=(lambda: evaluation) if evaluation is not None else None,
            save=None if cfg.train.save_strategy == 'no' else save,
            best_metric=_best_metric(cfg), better=_better(cfg),
            memory=partial(peak_memory, backend.device.type),
            progress=progress, skipped=run / resume.SKIPPED, signals=signals, watchdog=watchdog,
            rehearsed=source.largest() if rehearsed else (),
        ).fit()  # fmt: skip
    watchdog.beat('drawing plots')
    return summary.end(run, done, load_best=cfg.train.load_best_model_at_end)


def evaluate(cfg: SftConfig, ready: Prepared) -> dict[str, float]:
    """Metrics of the model as it is over the evaluation rows, as a run measures them."""
    from swift.train import evaluation
    from swift.train.trainer import Pace

    choose_micro_batches(cfg)
    rows = _evaluation(cfg, ready)
    with ExitStack() as after:
        backend = _backend(cfg, ready, Pace(steps=1))
        after.callback(backend.close)
        objective = methods.objective(cfg)
        compared = reference.load(cfg, ready, objective, backend, [rows], lambda phase: None)
        distillation.teach(cfg, ready, objective, backend)
        return evaluation.measure(backend, objective, rows, reference=compared)


def choose_micro_batches(cfg: SftConfig) -> None:
    """Fill in how many tokens a micro-batch has where no flag says it."""
    if cfg.data.max_tokens_per_batch is None and device(use_cpu=cfg.train.use_cpu) == 'cpu':
        cfg.put('max_tokens_per_batch', CPU_TOKENS, 'derived')


def _start_of(resumed: Path | None) -> datetime:
    """When the run began: templates that print the date keep printing that one."""
    if resumed is not None and (resumed / files.MANIFEST).is_file():
        facts = files.read_manifest(resumed).facts
        if started := facts.get('fingerprint', {}).get('started'):
            return datetime.fromisoformat(started)
    return datetime.now().replace(microsecond=0)


# ------------------------------------------------------------------------------------------------------------ data
def _sources(cfg: SftConfig, ready: Prepared) -> tuple[Source, Any]:
    """The optimizer steps of the run, and the evaluation batches or None. Rows are tokenised here."""
    from swift import data

    train = cfg.train
    shared = {'fingerprint': ready.fingerprint, **ready.lint_facts()}
    source = data.batches(
        ready.train,
        ready.encode,
        cfg.data,
        batch_size=train.per_device_train_batch_size,
        accumulation=int(train.gradient_accumulation_steps or 1),
        epochs=train.num_train_epochs,
        max_steps=train.max_steps,
        drop_last=train.dataloader_drop_last,
        **shared,
    )
    wanted = ready.val is not None and train.eval_strategy != 'no'
    return source, _evaluation(cfg, ready) if wanted else None


def _evaluation(cfg: SftConfig, ready: Prepared) -> Evaluation:
    """The evaluation batches."""
    from swift import data

    return data.eval_batches(
        ready.val,
        ready.encode,
        cfg.data,
        batch_size=cfg.train.per_device_eval_batch_size,
        fingerprint=ready.fingerprint,
        **ready.lint_facts(),
    )


def _pace(cfg: SftConfig, source: Source) -> Pace:
    """When to log, evaluate and save, in steps."""
    from swift.train.trainer import Pace

    train = cfg.train
    try:
        steps = len(source)
    except TypeError as error:
        raise ConfigError('--streaming needs --max_steps: a stream does not know its end') from error
    epoch = max(1, math.ceil(steps / max(train.num_train_epochs, 1e-9))) if train.max_steps <= 0 else 0
    every = lambda strategy, each: {
        'no': 0,
        'steps': max(1, round(each * steps) if each < 1 else round(each)),
        'epoch': epoch or steps,
        'best': max(1, round(each * steps) if each < 1 else round(each)),
    }[strategy]
    evaluate = every(train.eval_strategy or 'no', train.eval_steps or train.save_steps)
    return Pace(
        steps=steps,
        log=max(1, round(train.logging_steps)),
        log_first=train.logging_first_step,
        evaluate=evaluate,
        evaluate_first=train.eval_on_start,
        evaluate_after=round(train.eval_delay * (epoch or 1) if train.eval_strategy == 'epoch' else train.eval_delay),
        save=every(train.save_strategy, train.save_steps),
        save_last=train.save_strategy != 'no',
        early_stop=train.early_stop_interval or 0,
    )


def _best_metric(cfg: SftConfig) -> str:
    name = str(cfg.train.metric_for_best_model or 'loss')
    return name if name.startswith('eval_') else f'eval_{name}'


def _better(cfg: SftConfig) -> Any:
    return (lambda new, old: new > old) if cfg.train.greater_is_better else (lambda new, old: new < old)


# ----------------------------------------------------------------------------------------------------------- model
def _backend(cfg: SftConfig, ready: Prepared, pace: Pace) -> TorchBackend:
    """The model in memory with its tuner, optimizer and schedule."""
    from swift.kernels import switch
    from swift.parallel.one_device import TorchBackend
    from swift.train import optim, schedule

    train, tuner = cfg.train, cfg.tuner
    builder = ready.builder if ready.memory else _tuned(cfg, ready.builder)
    if tuner.tuner_type == 'lora' and 'lora' in switch.wanted(train.kernels):
        from swift.tuners import fused

        builder = builder.then(fused.install)
    rate = float(train.learning_rate or 0.0)
    kwargs = _json(train.lr_scheduler_kwargs, 'lr_scheduler_kwargs')
    warmup = train.warmup_steps or train.warmup_ratio
    warmup = math.ceil(warmup * pace.steps) if warmup < 1 else round(warmup)
    schedule.factor(train.lr_scheduler_type, 0, total=pace.steps, warmup=warmup, peak=rate, **kwargs)

    def optimizer(model: nn.Module, masters: dict) -> Any:
        groups = optim.groups(
            model, masters, lr=rate, weight_decay=train.weight_decay, lorap_lr_ratio=tuner.lorap_lr_ratio
        )
        return optim.make(
            train.optim,
            groups,
            lr=rate,
            betas=(train.adam_beta1, train.adam_beta2),
            eps=train.adam_epsilon,
            one_pass='adamw' in switch.wanted(train.kernels),
            seed=train.seed,
        )

    return TorchBackend(
        builder,
        _settings(cfg, ready, builder),
        optimizer=optimizer,
        schedule=lambda step: schedule.factor(
            train.lr_scheduler_type, step, total=pace.steps, warmup=warmup, peak=rate, **kwargs
        ),
        write_model=partial(_write_model, cfg),
    )


def _tuned(cfg: SftConfig, builder: Builder) -> Builder:
    """The model with what learns: weights of its own, a fresh adapter, or a saved one."""
    from swift.tuners import TUNERS

    if cfg.model.adapters:
        from swift.tuners import lora

        return lora.continued(builder, cfg.model.adapters)
    return TUNERS[cfg.tuner.tuner_type](builder, cfg.tuner)


def _settings(cfg: SftConfig, ready: Prepared, builder: Builder) -> Settings:
    from swift.kernels import switch
    from swift.parallel.settings import Settings
    from swift.train import optim

    train = cfg.train
    wanted = 'bfloat16' if train.bf16 else 'float16' if train.fp16 else None
    return Settings(
        device=device(use_cpu=train.use_cpu),
        max_length=ready.max_length,
        autocast=wanted if wanted != builder.info.dtype else None,
        max_grad_norm=train.max_grad_norm,
        gradient_checkpointing=bool(train.gradient_checkpointing),
        selective_recompute=bool(train.selective_recompute),
        neftune_alpha=train.neftune_noise_alpha or 0.0,
        attn_impl=cfg.model.attn_impl,
        kernels=switch.wanted(train.kernels),
        masters=train.optim not in optim.WITHOUT_MASTERS,
        step_in_backward=train.step_in_backward,
        kernel_check=train.kernel_check,
        prefix_sharing=cfg.reference.prefix_sharing if isinstance(cfg, configs.RlhfConfig) else True,
    )


def device(*, use_cpu: bool) -> str:
    """The device to train on: an accelerator if there is one."""
    import torch

    if use_cpu or not torch.accelerator.is_available():
        return 'cpu'
    return str(torch.accelerator.current_accelerator())


def seed_everything(seed: int) -> None:
    """Seed every random generator that training draws from."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def peak_memory(kind: str) -> float:
    """Most memory in use so far, GiB: of the GPU, or of this process."""
    import resource
    import sys

    import torch

    if kind == 'cuda':
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == 'darwin' else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _json(value: dict | str | None, name: str) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigError(f'--{name} {value!r} is not JSON: {error}') from None
    return dict(value or {})


def _take_weights(backend: TorchBackend, folder: Path) -> None:
    """--resume_only_model: the trained weights of a checkpoint of ours or of another tool, nothing else."""
    from swift.train import state

    if (folder / state.STATE).is_dir():  # in the precision they were trained in
        tensors, _ = state.read(folder / state.STATE)
        prefix = 'backend/param/'
        backend.take({name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)})
        return
    backend.take(saved_weights(backend.model, folder))


def saved_weights(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """What the files of a model or adapter hold, under the names that the parameters of ``model`` have."""
    from safetensors.torch import load_file

    tensors = {name: each for file in sorted(folder.glob('*.safetensors')) for name, each in load_file(file).items()}
    if (folder / 'adapter_config.json').is_file():
        from swift.tuners import lora

        tensors = lora.named_as_trained(model, tensors)  # type: ignore[arg-type]
    return tensors


# ----------------------------------------------------------------------------------------------------------- files
def _write_model(cfg: SftConfig, model: nn.Module, folder: Path) -> None:
    """What others open: a peft folder or a transformers folder."""
    if cfg.tuner.tuner_type == 'full':
        model.save_pretrained(folder, max_shard_size=cfg.train.max_shard_size)  # type: ignore[operator]
        return
    from swift.tuners import lora

    lora.export(model, folder, with_embeddings=bool(cfg.model.new_special_tokens))  # type: ignore[arg-type]


def write(cfg: SftConfig, ready: Prepared, model: nn.Module, folder: Path) -> None:
    """A model as it stands in a checkpoint, without the state of training."""
    _write_model(cfg, model, folder)
    _write_extras(cfg, ready, folder)


def _write_extras(cfg: SftConfig, ready: Prepared, folder: Path) -> None:
    """Tokenizer, template and settings: with them `swift infer --adapters FOLDER` needs no other flag."""
    ready.builder.tokenizer.save_pretrained(folder)
    if ready.builder.readout is not None:
        heads.write(folder, ready.builder, length=ready.max_length)
    (folder / 'args.json').write_text(_args_json(cfg), encoding='utf-8')


def _args_json(cfg: SftConfig) -> str:
    return json.dumps(configuration.dump(cfg).args, ensure_ascii=False, indent=2)


def _write_run_files(cfg: SftConfig, run: Path, ready: Prepared) -> None:
    """args.json, config.yaml with the source of each value, and the evaluation rows."""
    files.write(run / 'args.json', _args_json(cfg))
    files.write(run / 'config.yaml', configuration.dump(cfg).yaml)
    if ready.val is not None and cfg.data.split_dataset_ratio > 0:
        from swift import data

        data.save(ready.val, run / 'val_dataset.jsonl')


def _fingerprint(
    cfg: SftConfig, ready: Prepared, pace: Pace, backend: TorchBackend, started: datetime
) -> dict[str, Any]:
    """Everything that the next step depends on, for a resumed run to be compared with."""
    from swift.kernels import compiled
    from swift.train import fingerprint

    train = cfg.train
    return {
        'machine': fingerprint.machine(str(backend.device)),
        'model': {
            'weights': ready.weights,
            'dtype': ready.builder.info.dtype,
            **{name: getattr(cfg.model, name) for name in READING},
        },
        'template': ready.fingerprint,
        'started': started.isoformat(timespec='seconds'),
        'tuner': vars(cfg.tuner),
        **_aligned(cfg, ready),
        **_task(cfg),
        'packed': backend.unpacked_reason is None,
        'kernels': {'compiled': compiled.identity(), **{each.name: each.count for each in backend.kernels}},
        'train': {name: getattr(train, name) for name in FINGERPRINTED},
        'steps': pace.steps,
        'max_tokens_per_batch': cfg.data.max_tokens_per_batch,
    }


def _aligned(cfg: SftConfig, ready: Prepared) -> dict[str, Any]:
    """What alignment adds to the fingerprint."""
    if not isinstance(cfg, configs.RlhfConfig):
        return {}
    distilled = {'distill': distillation.facts(cfg, ready)} if cfg.objective.rlhf_type == 'gkd' else {}
    return {'objective': vars(cfg.objective), 'reference': reference.facts(cfg, ready), **distilled}


def _task(cfg: SftConfig) -> dict[str, Any]:
    """What a task that reads sequences adds to the fingerprint."""
    return {'task': [cfg.model.task_type, vars(cfg.task)]} if methods.method(cfg).reads else {}


def _trackers(cfg: SftConfig, run: Path) -> list[Tracker]:
    from swift.train import track
    from swift.train.resume import JOURNAL

    train = cfg.train
    others = track.trackers(
        train.report_to,
        run,
        name=train.run_name or run.name,
        logging_dir=Path(train.logging_dir) if train.logging_dir else run / 'runs',
        config=configuration.dump(cfg).args,
        swanlab={
            'token': train.swanlab_token,
            'project': train.swanlab_project,
            'workspace': train.swanlab_workspace,
            'exp_name': train.swanlab_exp_name,
            'mode': train.swanlab_mode,
        },
    )
    return [track.Console(), track.Journal(run / JOURNAL), *others]
