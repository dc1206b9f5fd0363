"""swift rlhf --rlhf_type gkd: who teaches, and who writes the completions that are learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.commands.prepare import Prepared
from swift.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from swift.commands.configs import RlhfConfig
    from swift.core.types import Builder, Objective, Request, Source
    from swift.parallel.one_device import TorchBackend
    from swift.parallel.runner import Runner
    from swift.parallel.teacher import Says
    from swift.rollout.completions import Write

ADAPTER = 'teacher'
AT_ONCE = 64  # completions that are written together
Lend = Callable[[], AbstractContextManager['nn.Module']]


def begin(cfg: Any, ready: Prepared, objective: Objective, backend: TorchBackend, source: Source) -> Source:
    """Give the backend a teacher, if ``objective`` learns from one.

    Returns:
        The steps to train on: those of ``source``, or the same with other completions.

    Raises:
        ConfigError: the teacher speaks of other tokens than the student.
    """
    lend = teach(cfg, ready, objective, backend)
    if 'divergence' not in objective.needs or not (cfg.distill.lmbda or cfg.distill.seq_kd):
        return source
    return _rewritten(cfg, ready, backend, source, lend)


def teach(cfg: Any, ready: Prepared, objective: Objective, backend: TorchBackend) -> Lend | None:
    """Give the backend its teacher, and nothing else; returns how the teacher is lent to write completions."""
    from swift.objectives.distill import divergence
    from swift.parallel.teacher import Teacher

    if 'divergence' not in objective.needs:
        return None
    says, lend = _teacher(cfg, ready, backend)
    backend.runner.teacher = Teacher(says, divergence(cfg.objective, cfg.distill))
    return lend


def facts(cfg: RlhfConfig, ready: Prepared) -> dict[str, Any]:
    """What decides what is learned, for a resumed run to be compared with."""
    from swift.train import fingerprint

    asked = cfg.distill
    if asked.teacher_model_server:
        weights = None
    elif ready.memory and ready.memory.teacher:
        weights = fingerprint.of_model(ready.memory.teacher.build())
    else:
        weights = ready.weights if _itself(cfg) else fingerprint.of_folder(_builder(cfg).info.path)
    return {
        **vars(asked),
        'teacher_model': weights,
        'teacher_adapters': [fingerprint.of_folder(each) for each in _adapters(cfg)],
    }


# -------------------------------------------------------------------------------------------------------------- teacher
def _teacher(cfg: RlhfConfig, ready: Prepared, backend: TorchBackend) -> tuple[Says, Lend | None]:
    """What the teacher says, and how it is lent to write completions; a server is not."""
    from swift.parallel import reference, teacher
    from swift.parallel.answering import lent

    asked = cfg.distill
    if asked.teacher_model_server:
        from swift.parallel.remote import Server

        assert asked.gkd_logits_topk is not None, 'checked with the flags'
        return Server(asked.teacher_model_server, top=asked.gkd_logits_topk), None
    held = ready.memory.teacher if ready.memory else None
    if held is None and _itself(cfg) and cfg.tuner.tuner_type != 'full':
        adapter = _own_adapter(cfg, backend)
        return teacher.switched(backend, adapter), lambda: lent(backend.runner, reference.other(backend.model, adapter))
    builder = held or _builder(cfg)
    _same_tokens(ready.builder, builder)
    runner = reference.frozen_runner(builder, backend.settings)
    return runner.predictions, lambda: lent(runner)


def _own_adapter(cfg: RlhfConfig, backend: TorchBackend) -> str | None:
    """The name of the teacher's adapter on the student's own model; None: the model without any."""
    folders = _adapters(cfg)
    if not folders:
        return None
    from swift.tuners import lora

    lora.add_frozen(backend.model, str(folders[0]), ADAPTER)  # type: ignore[arg-type]
    return ADAPTER


def _itself(cfg: RlhfConfig) -> bool:
    """Whether the teacher is the student's model."""
    teacher, student = cfg.distill.teacher_model, cfg.model.model
    return teacher in (None, student) or (Path(teacher).exists() and str(Path(teacher).absolute()) == student)


def _adapters(cfg: RlhfConfig) -> list[Path]:
    """Local folders of ``--teacher_adapters``."""
    from swift import hub

    fetch = partial(hub.fetch, use_hf=cfg.model.use_hf, token=cfg.model.hub_token)
    return [fetch(each) for each in cfg.distill.teacher_adapters]


def _builder(cfg: RlhfConfig) -> Builder:
    """The teacher as a model of its own, loaded as the student is."""
    from swift import models

    asked = cfg.distill
    if _itself(cfg):
        builder = models.load(cfg.model)
    else:
        args = replace(
            cfg.model,
            model=asked.teacher_model,
            model_type=asked.teacher_model_type,
            model_revision=asked.teacher_model_revision,
            new_special_tokens=[],
        )
        builder = models.load(args)
    if folders := _adapters(cfg):
        from swift.tuners import lora

        builder = lora.continued(builder, [str(each) for each in folders])
    return builder


def _same_tokens(student: Builder, teacher: Builder) -> None:
    """Raises ConfigError when an id that both have is another token to each."""
    names = [{id: token for token, id in each.tokenizer.get_vocab().items()} for each in (student, teacher)]
    ours, theirs = names
    if differing := sorted(id for id in ours.keys() & theirs.keys() if ours[id] != theirs[id]):
        id = differing[0]
        raise ConfigError(
            f'--teacher_model {teacher.info.id} does not share the tokens of {student.info.id}: {len(differing)} ids '
            f'differ, {id} is {theirs[id]!r} there and {ours[id]!r} here. Distillation compares probabilities of the '
            'same tokens: take a teacher of the same family'
        )


# ---------------------------------------------------------------------------------------------------------- completions
def _rewritten(cfg: RlhfConfig, ready: Prepared, backend: TorchBackend, source: Source, lend: Lend | None) -> Source:
    """Steps whose completions the student writes, and the teacher the others' with ``--seq_kd``."""
    from swift.core.types import Sampling
    from swift.parallel.answering import lent
    from swift.rollout.completions import Rewritten, Rules

    asked = cfg.distill
    rules = Rules(
        share=asked.lmbda,
        sampling=Sampling(max_tokens=asked.max_completion_length, temperature=asked.temperature),
        max_length=ready.max_length,
        seed=cfg.train.seed,
        max_tokens=cfg.data.max_tokens_per_batch,
    )
    student = _writer(ready, backend.runner, lambda: lent(backend.runner))
    teacher = _writer(ready, backend.runner, lend) if asked.seq_kd and lend is not None else None
    return Rewritten(source, rules, student=student, teacher=teacher)


def _writer(ready: Prepared, student: Runner, lend: Lend) -> Write:
    from swift.engines import chat
    from swift.engines.native import together
    from swift.engines.native.scheduler import Limits

    stops = (*ready.template.stop_ids, *chat.end_ids(student.base.generation_config.eos_token_id))
    limits = Limits(ready.max_length, max_batch_size=AT_ONCE)

    def write(requests: Sequence[Request]) -> list[tuple[int, ...]]:
        with lend() as model:
            return together.answer(model, requests, stop_ids=stops, limits=limits)

    return write
