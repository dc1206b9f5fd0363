"""TRL 1.16 on the same log-probabilities: its loss, the gradient in the weights of the bigram model, its metrics.

A trainer is made without its constructor and handed a model that looks log-probabilities up, so that nothing but its
loss is asked. That is no interface of TRL's: another version than ``VERSION`` is not tried.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from swift.core.errors import need
from swift.core.types import Encoded
from swift.objectives import trial
from swift.objectives.args import ObjectiveArgs
from swift.objectives.distill_args import DistillArgs
from swift.objectives.entry import Method
from swift.objectives.kto import mismatched
from swift.objectives.trial import Measured, Weights
from swift.verify.finding import Finding
from swift.verify.formulas import MODELS, PART, apart, measured, objective, place, rows_of, view

VERSION = '1.16'
ALLOWED = 1e-6
SINGLE = 1e-5
"""Where TRL computes in float32."""

Answers = Sequence[tuple[list[int], int]]  # tokens of each sequence, and where its answer begins


def check(name: str, method: Method) -> Iterator[Finding]:
    """How far the method is from TRL's with the default flags; nothing where TRL has none such."""
    peer = PEERS.get(method.given.get('rlhf_type', ''))
    if peer is None or peer.lacks in method.given:
        return
    shown = {'part': PART, 'name': name, 'what': 'TRL', 'place': place(method.code)}
    if reason := absent():
        yield Finding(difference=None, note=reason, **shown)
        return
    rows = peer.rows() if peer.rows else rows_of(method)
    theirs = peer.compute(ObjectiveArgs(**method.given), rows, *MODELS)
    far = float(np.max(apart(measured(objective(method, {}), rows, view=view(method, {})), theirs)))
    yield Finding(difference=far, allowed=peer.allowed, **shown)


def absent() -> str | None:
    """Why TRL cannot be asked, or None."""
    if importlib.util.find_spec('trl') is None:
        return f'TRL is not installed: pip install trl=={VERSION}.0'
    found = importlib.metadata.version('trl')
    return None if found.startswith(f'{VERSION}.') else f'TRL {found} is installed; its losses are known of {VERSION}'


# --------------------------------------------------------------------------------------------------------- its losses
def dpo(args: ObjectiveArgs, rows: Sequence[Encoded], policy: Weights, reference: Weights) -> Measured:
    """DPOTrainer."""
    single = args.f_divergence_type == 'alpha_divergence'  # it knows no float64 there
    model = partial(_bigram, dtype=torch.float32 if single else torch.float64)
    smoothing = args.label_smoothing or (1e-3 if 'exo_pair' in args.losses else 0.0)
    made = _trainer(
        need('trl.trainer.dpo_trainer').DPOTrainer,
        beta=args.strength, loss_types=list(args.losses), loss_weights=list(args.losses.values()),
        ld_alpha=args.ld_alpha, label_smoothing=smoothing, use_weighting=False,
        f_divergence_type=args.f_divergence_type, f_alpha_divergence_coef=args.f_alpha_divergence_coef,
        precompute_ref_logps=False, ref_model=model(reference), options={'discopop_tau': args.discopop_tau},
    )  # fmt: skip
    inputs = _padded([*_sequences(rows, 0), *_sequences(rows, 1)])
    loss = lambda weights: (made._compute_loss(model(weights), inputs, return_outputs=False), None)
    return _differentiated(loss, policy, made)


def kto(args: ObjectiveArgs, rows: Sequence[Encoded], policy: Weights, reference: Weights) -> Measured:
    """KTOTrainer, with all rows in one micro-batch."""
    kind = next(iter(args.losses))
    made = _trainer(
        need('trl.trainer.kto_trainer').KTOTrainer,
        beta=args.strength, desirable_weight=args.desirable_weight, undesirable_weight=args.undesirable_weight,
        loss_type=kind, calculate_KL=kind == 'kto', precompute_ref_logps=False, ref_model=_bigram(reference),
    )  # fmt: skip
    other = mismatched(trial.batches(rows, [range(len(rows))]))[0]
    answers = _sequences(rows, 0)
    ends = zip(other.input_ids.split(other.segments.lengths), answers, strict=True)
    inputs = _padded(answers)
    inputs |= {f'KL_{key}': value for key, value in _padded([(ids.tolist(), n) for ids, (_, n) in ends]).items()}
    inputs['label'] = torch.tensor([row.label[0] == 1 for row in rows])
    loss = lambda weights: (made._compute_loss(_bigram(weights), inputs, return_outputs=False), None)
    return _differentiated(loss, policy, made)


def cpo(args: ObjectiveArgs, rows: Sequence[Encoded], policy: Weights, reference: Weights) -> Measured:
    """CPOTrainer, which has SimPO too."""
    return _older(
        need('trl.experimental.cpo').CPOTrainer, rows, policy,
        beta=args.strength, label_smoothing=args.label_smoothing, loss_type=next(iter(args.losses)),
        simpo_gamma=args.simpo_gamma, cpo_alpha=args.cpo_alpha, alpha=0.0,
    )  # fmt: skip


def orpo(args: ObjectiveArgs, rows: Sequence[Encoded], policy: Weights, reference: Weights) -> Measured:
    """ORPOTrainer."""
    return _older(need('trl.experimental.orpo').ORPOTrainer, rows, policy, beta=args.strength)


def reward(args: ObjectiveArgs, rows: Sequence[Encoded], policy: Weights, reference: Weights) -> Measured:
    """RewardTrainer."""
    centering = {'center_rewards_coefficient': args.center_rewards_coefficient}
    made = _trainer(need('trl.trainer.reward_trainer').RewardTrainer, options=centering)
    inputs = _padded([*_sequences(rows, 0), *_sequences(rows, 1)])
    if any(row.label for row in rows):
        inputs['margin'] = torch.tensor([row.label[0] for row in rows], dtype=torch.float64)

    def loss(weights: Weights) -> tuple[Tensor, None]:
        model = lambda input_ids, attention_mask, **_: SimpleNamespace(
            logits=(weights.value[input_ids] * attention_mask).sum(1)[:, None]
        )
        return made.compute_loss(model, dict(inputs)), None

    return _differentiated(loss, policy, made)


def gkd(args: ObjectiveArgs, rows: Sequence[Encoded], policy: Weights, reference: Weights) -> Measured:
    """GKDTrainer, with the temperature that flags have unless given; its trainer calls it with 1."""
    inputs = _padded(_sequences(rows, 0))
    labels = inputs['input_ids'].masked_fill(inputs['completion_mask'] == 0, -100)[:, 1:]
    before = inputs['input_ids'][:, :-1]
    theirs = need('trl.experimental.gkd').GKDTrainer.generalized_jsd_loss
    loss = lambda weights: theirs(
        weights.table[before], reference.table[before], labels, args.strength, DistillArgs().temperature
    )
    return _differentiated(lambda weights: (loss(weights), {}), policy, None)


class Peer(NamedTuple):
    """``rows``: those that it computes the same of, where not of all. ``lacks``: a flag that it has nothing for."""

    compute: Callable[[ObjectiveArgs, Sequence[Encoded], Weights, Weights], Measured]
    allowed: float = ALLOWED
    rows: Callable[[], list[Encoded]] | None = None
    lacks: str = ''


PEERS = {
    'dpo': Peer(dpo),
    'kto': Peer(kto),
    'cpo': Peer(cpo),
    'simpo': Peer(cpo),
    # its next-token loss takes prompts in; of one token, they have nothing to learn
    'orpo': Peer(orpo, SINGLE, rows=lambda: trial.preferences(3, prompts=(1,))),
    'rm': Peer(reward),
    'gkd': Peer(gkd, rows=lambda: trial.plain_texts(3), lacks='gkd_logits_topk'),
}
"""By ``--rlhf_type``."""


# -------------------------------------------------------------------------------------------------------- its trainers
class _Alone:
    """An accelerator of one process."""

    device = torch.device('cpu')
    gather = gather_for_metrics = staticmethod(lambda values: values)


class _Lists(dict):
    """Metrics as TRL collects them."""

    def __missing__(self, key: str) -> list:
        self[key] = []
        return self[key]


def _trainer(kind: Any, *, options: Any = (), **attributes: Any) -> Any:
    """A trainer with these attributes and ``args`` of these options, that is in training and keeps metrics."""
    made = object.__new__(kind)
    made.accelerator, made.aux_loss_enabled = _Alone(), False
    made._metrics, made._total_train_tokens, made._tp_size = {'train': _Lists()}, 0, 1
    made.args = SimpleNamespace(gradient_checkpointing_kwargs=None, **dict(options))
    made.model = torch.nn.Module()
    made.model.is_gradient_checkpointing = False
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def _older(kind: Any, rows: Sequence[Encoded], policy: Weights, **attributes: Any) -> Measured:
    """What its trainers of the older kind compute of pairs."""
    made = _trainer(
        kind, is_encoder_decoder=False, pad_token_id=0, padding_value=0, label_pad_token_id=-100, **attributes
    )
    batch = {}
    for name, member in (('chosen', 0), ('rejected', 1)):
        half = _padded(_sequences(rows, member))
        batch[f'{name}_input_ids'], batch[f'{name}_attention_mask'] = half['input_ids'], half['attention_mask']
        batch[f'{name}_labels'] = half['input_ids'].masked_fill(half['completion_mask'] == 0, -100)
    logits = lambda weights: lambda input_ids, **_: SimpleNamespace(logits=weights.table[input_ids])
    return _differentiated(lambda weights: made.get_batch_loss_metrics(logits(weights), batch), policy, made)


def _bigram(weights: Weights, dtype: torch.dtype = torch.float64) -> Any:
    """A model as TRL calls one: labels -100 elsewhere than at answers, log_probs [N, L - 1] out."""

    def model(input_ids: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
        table = torch.log_softmax(weights.table, -1).to(dtype)
        answer = labels[:, 1:] != -100
        log_probs = torch.where(answer, table[input_ids[:, :-1], input_ids[:, 1:]], 0.0)
        nothing = torch.zeros_like(log_probs)
        top = table.argmax(-1)[input_ids[:, :-1]] == input_ids[:, 1:]
        return SimpleNamespace(log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=top)

    return model


def _sequences(rows: Sequence[Encoded], member: int) -> Answers:
    return [trial.sequences(row)[member] for row in rows]


def _padded(sequences: Answers) -> dict[str, Tensor]:
    """input_ids, attention_mask and completion_mask of sequences, padded on the right."""
    width = max(len(ids) for ids, _ in sequences)
    made = np.zeros((3, len(sequences), width), np.int64)
    for n, (ids, first) in enumerate(sequences):
        made[0, n, : len(ids)], made[1, n, : len(ids)], made[2, n, first : len(ids)] = ids, 1, 1
    return dict(zip(('input_ids', 'attention_mask', 'completion_mask'), torch.from_numpy(made), strict=True))


def _differentiated(loss_of: Callable[[Weights], tuple[Tensor, Any]], policy: Weights, made: Any) -> Measured:
    """Loss and gradient of ``loss_of(weights) -> (loss, metrics)``; without metrics, those that the trainer keeps."""
    weights = Weights(*(each.clone().requires_grad_() for each in policy))
    loss, metrics = loss_of(weights)
    loss.backward()
    gradient = [each.grad if each.grad is not None else torch.zeros_like(each) for each in weights]
    if metrics is None:
        metrics = {name: np.mean(values) for name, values in made._metrics['train'].items()}
    told = {name: float(value) for name, value in metrics.items()}
    return Measured(float(loss.detach()), torch.cat([each.flatten() for each in gradient]).numpy(), told)
