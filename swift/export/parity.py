"""Proof that a merged model is the model with its adapter: the same distributions over tokens, the same weights.

Two kinds of evidence. Prompts go through both models, and next-token distributions are compared position by position:

    KL(p || q) = sum_v p(v) (log p(v) - log q(v))        p: base with adapter, q: merged and opened again

Then the weights, where a fault too small for the prompts still shows: random vectors go through every layer that the
adapter changes, and the outputs may differ by the rounding of the stored weights; every other tensor must be the
base's, bit for bit.

Shapes: ``T`` positions of all prompts, ``V`` vocabulary, ``P`` probe vectors of a layer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swift.core.errors import NumericalError
from swift.core.log import say

PREFIX = 'base_model.model.'
PROBES = 16  # vectors through each layer
LONGEST = 512  # tokens of a prompt that are read
KEPT = 96  # last positions of a prompt that are compared
POSITIONS = 1024  # of all prompts: their distributions stay in memory while the models change places

Prompts = Callable[[Any], Sequence[Sequence[int]]]
"""Token ids to compare on, by a tokenizer."""

# Per data type of the stored weights: largest mean KL; the gap (nats) up to which two favourites count as a tie;
# half a unit in the last place, relative. Measured with right merges of SmolLM2, then times five or more.
LIMITS = {
    torch.bfloat16: (1e-2, 0.1, 2.0**-9),
    torch.float16: (1e-3, 0.02, 2.0**-12),
    torch.float32: (1e-5, 1e-3, 2.0**-20),  # there the sums round more than the weights do
}
ROUNDINGS = 8.0  # times the expected rounding that a layer's output may differ; the largest of 1e6 normal numbers is 5


@dataclass
class Reference:
    """What the unmerged model says: kept while the merged one takes its place in memory."""

    prompts: list[list[int]]
    logps: list[Tensor]  # of each prompt, fp32 [T, V], on the CPU
    effect: float  # mean KL of the base without the adapter: what the adapter changes
    outputs: dict[str, Tensor | None]  # layer name -> its answers to the probes, fp32
    digests: dict[str, bytes]  # every other tensor
    precise: bool  # computed in fp32


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    value: float
    limit: float
    at_most: bool = True

    @property
    def passed(self) -> bool:
        """Whether the value keeps to its limit (NaN never does)."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass(frozen=True)
class Report:
    """The comparison, and what it was made with."""

    checks: tuple[Check, ...]
    facts: dict[str, Any]
    where: tuple[str, ...] = field(default=())  # tensors that differ

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> str:
        """All of it, for the file beside the weights."""
        checks = [{**asdict(check), 'passed': check.passed} for check in self.checks]
        return json.dumps({'passed': self.passed, 'checks': checks, 'where': self.where, **self.facts}, indent=2)


class ParityError(NumericalError):
    """The merged model is not the model with its adapter."""

    def __init__(self, report: Report):
        failed = '; '.join(
            f'{check.name} {check.value:.3g} (limit {check.limit:.3g})' for check in report.checks if not check.passed
        )
        where = f' Where: {", ".join(report.where[:3])}.' if report.where else ''
        super().__init__(
            f'the merged model does not answer as the model with its adapter: {failed}.{where} --parity warn writes it '
            'nevertheless'
        )


# ------------------------------------------------------------------------------------------------------- both sides
@torch.no_grad()
def reference(tuned: Any, prompts: Sequence[Sequence[int]], *, precise: bool) -> Reference:
    """Question the base with its active adapter.

    Args:
        tuned: wrapped by peft, not merged; unchanged afterwards.
        precise: compute in fp32 whatever the weights are; needs the memory for it.
    """
    prompts = _fitting(prompts)
    layers = dict(_tuned_layers(tuned))
    digests = {
        name.removeprefix(PREFIX): _digest(value)
        for name, value in tuned.state_dict().items()
        if not any(name.startswith(f'{PREFIX}{layer}.') for layer in layers)
    }
    outputs = {name: _probe(layer) for name, layer in layers.items()}
    with _in_fp32(tuned, precise):
        logps = [_logps(tuned, prompt) for prompt in prompts]
        with tuned.disable_adapter():
            effect = torch.cat([_kl(p, _logps(tuned, prompt)) for p, prompt in zip(logps, prompts, strict=True)])
    return Reference(prompts, logps, effect.mean().item(), outputs, digests, precise)


@torch.no_grad()
def compare(reference: Reference, merged: Any, *, kl: float | None, top1: float) -> Report:
    """Question the merged model and hold its answers against the reference.

    Args:
        kl: largest mean divergence; None takes that of the weights' data type.
        top1: smallest part of positions whose favourite is the reference's, or as good as tied with it there.
    """
    dtype = merged.dtype
    limit, tie, unit = LIMITS.get(dtype, LIMITS[torch.bfloat16])
    worst, strange = _compare_weights(reference, merged, unit)
    divergence, lost = _compare_prompts(reference, merged)
    agreed = (lost <= tie).float().mean().item()
    layer = max(worst, key=worst.__getitem__, default='')
    checks = (
        Check('mean KL (nats)', divergence.mean().item(), limit if kl is None else kl),
        Check('top-1 agreement', agreed, top1, at_most=False),
        Check('merged layers, error / rounding', max(worst.values(), default=0.0), ROUNDINGS),
        Check('other tensors changed', float(len(strange)), 0.0),
    )
    facts = {
        'max_kl': divergence.max().item(),
        'adapter_effect_kl': reference.effect,
        'positions': len(divergence),
        'merged_layers': len(worst),
        'other_tensors': len(reference.digests),
        'not_probed': [name for name, wanted in reference.outputs.items() if wanted is None],
        'dtype': str(dtype).removeprefix('torch.'),
        'computed_in': 'float32' if reference.precise else str(dtype).removeprefix('torch.'),
    }
    return Report(checks, facts, (*strange, *([layer] if worst and worst[layer] > ROUNDINGS else ())))


def show(report: Report) -> None:
    """Print the report as a table."""
    facts = report.facts
    say(
        f'parity of base + adapter and merged model: {facts["positions"]} positions, stored in {facts["dtype"]}, '
        f'computed in {facts["computed_in"]}'
    )
    for check in report.checks:
        sign = '<=' if check.at_most else '>='
        verdict = 'ok' if check.passed else 'REFUSED'
        say(f'  {check.name:<33} {check.value:>10.3g}  {sign} {check.limit:<8.3g} {verdict}')
    say(f'  {"max KL (nats)":<33} {facts["max_kl"]:>10.3g}')
    say(f'  {"what the adapter changes, mean KL":<33} {facts["adapter_effect_kl"]:>10.3g}')
    if facts['not_probed']:
        say(f'  layers held against the prompts only: {", ".join(facts["not_probed"])}')


# -------------------------------------------------------------------------------------------------------- prompts
def _fitting(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """As many prompts, cut to LONGEST, as POSITIONS allow; at least one."""
    out: list[list[int]] = []
    room = POSITIONS
    for prompt in prompts:
        if out and room < min(len(prompt), KEPT):
            break
        out.append(list(prompt[:LONGEST]))
        room -= min(len(prompt), KEPT)
    return out


def _logps(model: Any, prompt: Sequence[int]) -> Tensor:
    """log p of the next token after each of the last positions, fp32 [T, V].

    Of a head, the log-probabilities of its classes (one score: against 0), [1, C]; of a model without a head, hidden
    states as if they were logits.
    """
    device = model.get_input_embeddings().weight.device
    output = model(input_ids=torch.tensor([prompt], device=device))
    said = output.logits if 'logits' in output else output.last_hidden_state
    said = said.reshape(-1, said.shape[-1])[-KEPT:].float().cpu()
    return (F.pad(said, (0, 1)) if said.shape[-1] == 1 else said).log_softmax(-1)


def _compare_prompts(reference: Reference, merged: Any) -> tuple[Tensor, Tensor]:
    """Per position of all prompts: the divergence, and how much less likely the new favourite was than the old one."""
    divergence, lost = [], []
    with _in_fp32(merged, reference.precise):
        for prompt, p in zip(reference.prompts, reference.logps, strict=True):
            q = _logps(merged, prompt)
            favourite = q.nan_to_num(nan=float('-inf')).argmax(-1, keepdim=True)
            divergence.append(_kl(p, q))
            lost.append(p.amax(-1) - p.gather(-1, favourite).squeeze(-1))
    return torch.cat(divergence), torch.cat(lost)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities [T, V] per position, in parts that keep memory low. NaN where q has NaN."""
    parts = zip(p.split(64), q.split(64), strict=True)
    return torch.cat([torch.where(a.exp() > 0, a.exp() * (a - b), 0.0).sum(-1) for a, b in parts])


@contextlib.contextmanager
def _in_fp32(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Let ``model`` compute in fp32 for a while. Half precision comes back exactly as it was."""
    tensors = [each for each in (*model.parameters(), *model.buffers()) if wanted and each.is_floating_point()]
    types = [each.dtype for each in tensors]
    try:
        for each in tensors:
            each.data = each.data.float()
        yield
    finally:
        for each, dtype in zip(tensors, types, strict=True):
            each.data = each.data.to(dtype)


# -------------------------------------------------------------------------------------------------------- weights
def _tuned_layers(tuned: Any) -> Iterator[tuple[str, nn.Module]]:
    """Modules that the adapter changes, by their names in the plain model; modules inside them are not listed."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    inside: tuple[str, ...] = ()
    for name, module in tuned.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and not name.startswith(inside or '\0'):
            inside += (f'{name}.',)
            yield name, module


def _plain(module: nn.Module) -> nn.Module:
    """The base's own module under what peft put around it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
    return module


def _probe(module: nn.Module) -> Tensor | None:
    """What the module makes of random inputs, in fp32; None if it is nothing that random vectors can go through."""
    inputs = _inputs(_plain(module))
    if inputs is None:
        return None
    with _in_fp32(module, True):
        return module(inputs).cpu()


def _inputs(plain: nn.Module) -> Tensor | None:
    """The same inputs every time: rows of a table, the last ones (new tokens) among them, or normal vectors."""
    weight = getattr(plain, 'weight', None)
    if weight is None or weight.dim() > 2:
        return None
    generator = torch.Generator().manual_seed(0)
    if isinstance(plain, nn.Embedding):
        some = torch.randint(len(weight), (1024,), generator=generator)
        return torch.cat([some, torch.arange(max(0, len(weight) - 256), len(weight))]).to(weight.device)
    width = weight.shape[0] if type(plain).__name__ == 'Conv1D' else weight.shape[-1]
    return torch.randn(PROBES, width, generator=generator).to(weight.device)


def _compare_weights(reference: Reference, merged: nn.Module, unit: float) -> tuple[dict[str, float], list[str]]:
    """The largest error of each merged layer in units of the expected rounding, and other tensors that changed."""
    worst = {}
    for name, wanted in reference.outputs.items():
        if wanted is None:
            continue
        module = merged.get_submodule(name)
        error = (_probe(module) - wanted).abs() / (unit * _rounding(module) + 1e-12)
        worst[name] = error.max().item()
    state = merged.state_dict()
    strange = [name for name, each in reference.digests.items() if name not in state or _digest(state[name]) != each]
    return worst, strange


def _rounding(module: nn.Module) -> Tensor:
    """The size of a layer's probe outputs if each weight were off by as much as itself, at random."""
    inputs, weight = _inputs(module), module.weight.float()
    if isinstance(module, nn.Embedding):
        rows = weight[inputs]
        return rows.abs().maximum(rows.square().mean(-1, keepdim=True).sqrt()).cpu()
    if weight.dim() == 1:
        return (inputs * weight).abs().cpu()
    square = weight.square() if type(module).__name__ == 'Conv1D' else weight.square().T
    return (inputs.square() @ square).sqrt().cpu()


def _digest(value: Tensor) -> bytes:
    """SHA-256 of a tensor's bytes, data type and shape."""
    raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(f'{value.dtype}{tuple(value.shape)}'.encode() + raw.tobytes()).digest()
