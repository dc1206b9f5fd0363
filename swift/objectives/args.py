"""Flags of what is minimised: which method of alignment, which of its losses, and their strengths."""

from dataclasses import dataclass
from typing import Literal

BETAS = {'simpo': 2.0, 'grpo': 0.04, 'gkd': 0.5}
"""What ``--beta`` is for a method unless it is given; 0.1 for all others."""

LOSS_TYPES: dict[str, tuple[str, ...]] = {
    'dpo': (
        'sigmoid', 'sigmoid_norm', 'hinge', 'ipo', 'robust', 'exo_pair', 'nca_pair', 'bco_pair', 'sppo_hard',
        'aot', 'aot_unpaired', 'apo_zero', 'apo_down', 'discopop', 'sft',
    ),
    'kto': ('kto', 'apo_zero_unpaired'),
    'cpo': ('sigmoid', 'hinge', 'ipo', 'simpo'),
    'simpo': ('simpo',),
}  # fmt: skip
"""What ``--loss_type`` may be for a method; the first is taken unless it is given."""

RENAMED = {'aot_pair': 'aot'}
"""Losses that had another name before TRL 1."""

ANY_DIVERGENCE = frozenset({'sigmoid', 'sigmoid_norm', 'hinge', 'ipo', 'robust', 'exo_pair', 'discopop', 'sft'})
"""Losses of DPO for which an f-divergence other than the reverse KL has a meaning."""


@dataclass(kw_only=True)
class ObjectiveArgs:
    """What is minimised, and how hard."""

    rlhf_type: Literal['dpo', 'orpo', 'simpo', 'kto', 'cpo', 'rm', 'prm', 'ppo', 'grpo', 'gkd'] = 'dpo'
    """Method of alignment; prm is a reward model of single steps."""
    loss_type: list[str] | None = None
    """Losses of the method: dpo takes several at once, as sigmoid bco_pair sft; None is its plain form."""
    loss_weights: list[float] | None = None
    """Weight of each loss of loss_type; None gives each 1."""
    beta: float | None = None
    """Strength of the pull towards the reference; None: 2.0 for simpo, 0.04 for grpo, 0.5 for gkd, 0.1 for others."""
    label_smoothing: float = 0.0
    """Part of the preferences that are taken to be wrong, 0 to below 0.5."""
    rpo_alpha: float | None = None
    """DPO: add so much of the next-token loss of chosen answers."""
    ld_alpha: float | None = None
    """LD-DPO: weight, 0 to 1, of tokens beyond the length of the pair's shorter answer."""
    f_divergence_type: Literal['reverse_kl', 'forward_kl', 'js_divergence', 'alpha_divergence'] = 'reverse_kl'
    """f-DPO: divergence between policy and reference."""
    f_alpha_divergence_coef: float = 0.5
    """f-DPO: alpha of alpha_divergence; 1 is the reverse and 0 the forward KL."""
    reference_free: bool = False
    """DPO: take all answers as equally likely before training, instead of asking a reference model."""
    discopop_tau: float = 0.05
    """DiscoPOP: temperature of the mix of its two losses, above 0 and at most 1."""
    desirable_weight: float = 1.0
    """KTO: weight of answers that are wanted."""
    undesirable_weight: float = 1.0
    """KTO: weight of answers that are not."""
    simpo_gamma: float = 1.0
    """SimPO: margin by which a chosen answer is to win."""
    cpo_alpha: float = 1.0
    """CPO, SimPO: weight of the next-token loss of chosen answers; 0 is SimPO as its paper has it."""
    center_rewards_coefficient: float | None = None
    """Reward model: weight of a term that keeps the mean reward at 0; 0.01 is usual."""

    @property
    def strength(self) -> float:
        """``beta``, or the method's own."""
        return BETAS.get(self.rlhf_type, 0.1) if self.beta is None else self.beta

    @property
    def losses(self) -> dict[str, float]:
        """Weight of each loss by name."""
        names = [RENAMED.get(name, name) for name in self.loss_type or LOSS_TYPES.get(self.rlhf_type, ())[:1]]
        weights = dict(zip(names, self.loss_weights or [1.0] * len(names), strict=True))
        if self.rpo_alpha and self.rlhf_type == 'dpo':
            weights['sft'] = weights.get('sft', 0.0) + self.rpo_alpha
        return weights


def problems(args: ObjectiveArgs) -> list[tuple[str, str]]:
    """What cannot work, as (flags, what is wrong and what to do)."""
    found = _problems_of_losses(args)
    if not 0 <= args.label_smoothing < 0.5:
        found.append(('label_smoothing', f'--label_smoothing {args.label_smoothing}: a part from 0 to below 0.5'))
    if args.strength <= 0 and args.rlhf_type not in ('grpo', 'gkd'):
        found.append(('beta', f'--beta {args.beta}: must be more than 0'))
    if args.ld_alpha is not None and not 0 <= args.ld_alpha <= 1:
        found.append(('ld_alpha', f'--ld_alpha {args.ld_alpha}: a weight from 0 to 1'))
    for name in ('rpo_alpha', 'ld_alpha'):
        if getattr(args, name) is not None and args.rlhf_type != 'dpo':
            found.append((name, f'--{name} belongs to --rlhf_type dpo: leave it out for {args.rlhf_type}'))
    if not 0 < args.discopop_tau <= 1:
        text = f'--discopop_tau {args.discopop_tau}: above 0 and at most 1; the paper takes 0.05'
        found.append(('discopop_tau', text))
    return found


def notes(args: ObjectiveArgs) -> list[str]:
    """What a user should hear once."""
    if 'aot' in (args.loss_type or ()):
        return ['--loss_type aot is the form for pairs, as in TRL 1; what older scripts mean by aot is aot_unpaired']
    return []


def _problems_of_losses(args: ObjectiveArgs) -> list[tuple[str, str]]:
    """Losses that the method does not have, weights that do not match, and divergences that fit none."""
    found: list[tuple[str, str]] = []
    method, known = args.rlhf_type, LOSS_TYPES.get(args.rlhf_type, ())
    names = [RENAMED.get(name, name) for name in args.loss_type or []]
    given = f'--loss_type {" ".join(names)}'
    if unknown := [name for name in names if name not in known]:
        has = f'it has {", ".join(known)}' if known else 'it has one loss only: leave the flag out'
        found.append(('loss_type', f'--loss_type {" ".join(unknown)}: not a loss of --rlhf_type {method}; {has}'))
    if len(names) > 1 and method != 'dpo':
        found.append(('loss_type', f'{given}: only --rlhf_type dpo takes several; name one'))
    if len(set(names)) < len(names):
        found.append(('loss_type', f'{given}: a loss is named twice; use --loss_weights instead'))
    if args.loss_weights and len(args.loss_weights) != max(1, len(names)):
        text = f'--loss_weights has {len(args.loss_weights)} weights for {max(1, len(names))} losses: give one for each'
        found.append(('loss_weights', text))
    fixed = [name for name in names if name not in ANY_DIVERGENCE]
    if args.f_divergence_type != 'reverse_kl' and fixed:
        text = (
            f'--f_divergence_type {args.f_divergence_type} has no meaning for --loss_type {" ".join(fixed)}, which '
            f'needs more than the difference of two rewards; take one of {", ".join(sorted(ANY_DIVERGENCE))}'
        )
        found.append(('f_divergence_type loss_type', text))
    return found


TASK_LOSSES: dict[str, tuple[str, ...]] = {
    'causal_lm': ('cross_entropy',),
    'seq_cls': ('cross_entropy',),
    'embedding': ('infonce', 'cosine_similarity', 'contrastive', 'online_contrastive', 'triplet'),
    'reranker': ('pointwise_reranker', 'listwise_reranker'),
    'generative_reranker': ('pointwise_reranker', 'listwise_reranker'),
}
"""What ``--loss_type`` may be for a task of ``swift sft``; the first is taken unless it is given."""


@dataclass(kw_only=True)
class TaskArgs:
    """What classifiers, embedding models and rerankers learn from a row."""

    loss_type: (
        Literal[
            'cross_entropy', 'infonce', 'cosine_similarity', 'contrastive', 'online_contrastive', 'triplet',
            'pointwise_reranker', 'listwise_reranker',
        ]
        | None
    ) = None  # fmt: skip
    """Loss of the task; None: infonce for embedding, pointwise_reranker for rerankers, else the only one there is."""
    mrl_dims: dict | str | None = None
    """Matryoshka: weight of the loss of the first so many numbers of an embedding, as JSON: {"64": 1.0, "384": 1.0}."""
    infonce_temperature: float = 0.1
    """infonce: similarities are divided by it."""
    infonce_use_batch: bool = True
    """infonce: documents of the other rows of the optimizer step are negatives too."""
    infonce_hard_negatives: int | None = None
    """infonce: negatives of a row that count, cut or repeated to this number; None takes those that it has."""
    infonce_mask_fake_negative: bool = False
    """infonce: leave out negatives that are more alike the query than its positive and infonce_fake_neg_margin."""
    infonce_fake_neg_margin: float = 0.1
    """Margin of infonce_mask_fake_negative."""
    infonce_include_qq: bool = False
    """infonce: the other queries of the step are negatives of a query."""
    infonce_include_dd: bool = False
    """infonce: the other documents of the step are held against the positive document too."""
    max_positive_samples: int = 1
    """Rerankers: positives of a row that are used, each with the negatives."""
    max_negative_samples: int = 7
    """Rerankers: negatives of a row that are used."""
    listwise_reranker_temperature: float = 1.0
    """listwise_reranker: scores are divided by it."""
    listwise_reranker_min_group_size: int = 2
    """listwise_reranker: rows with fewer documents are left out."""


def problems_of_task(args: TaskArgs, task: str) -> list[tuple[str, str]]:
    """What cannot work for a task of ``swift sft``, as (flags, what is wrong and what to do)."""
    found: list[tuple[str, str]] = []
    known = TASK_LOSSES[task]
    if args.loss_type is not None and args.loss_type not in known:
        text = f'--loss_type {args.loss_type}: not a loss of --task_type {task}; it has {", ".join(known)}'
        found.append(('loss_type task_type', text))
    if args.mrl_dims and task != 'embedding':
        found.append(('mrl_dims task_type', f'--mrl_dims shortens embeddings; --task_type {task} has none'))
    for name in ('infonce_temperature', 'listwise_reranker_temperature'):
        if getattr(args, name) <= 0:
            found.append((name, f'--{name} {getattr(args, name)}: must be more than 0'))
    return found
