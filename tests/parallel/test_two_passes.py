"""Losses over a whole step in two passes: the second has the dropout of the first, so the gradient is that of one."""

from dataclasses import replace

import pytest
import torch

from swift.core.types import Builder, ModelInfo, Readout
from swift.data.collate import collate
from swift.objectives import stepwide, streams, trial
from swift.objectives.args import ObjectiveArgs, TaskArgs
from swift.objectives.embedding import Embed, Rows
from swift.objectives.pairs import Pairs
from swift.objectives.preference import from_args
from swift.parallel.one_device import TorchBackend
from swift.parallel.settings import Settings
from swift.tuners.args import TunerArgs
from swift.tuners.lora import attach
from tests import tiny

SPLIT = [[3, 1], [0], [5, 2, 4]]
STRONG = 0.4


def bert():
    """An encoder with dropout of its own, in attention and after it."""
    from transformers import BertConfig, BertModel

    size = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 64}
    drops = {'hidden_dropout_prob': STRONG, 'attention_probs_dropout_prob': STRONG}
    torch.manual_seed(0)
    return BertModel(BertConfig(vocab_size=400, **size, **drops), add_pooling_layer=False)


def llama(reads):
    model = tiny.model('llama')
    torch.manual_seed(3)
    model = attach(model.model if reads else model, TunerArgs(lora_dropout=STRONG, init_weights='gaussian'))
    for name, parameter in model.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def backend(build, reads, **settings):
    info = ModelInfo(None, 'tiny', '', '', 'float32', 64)
    readout = Readout('pooled') if reads else None
    return TorchBackend(
        Builder(info, None, build, readout),
        Settings(kernel_check='off', max_grad_norm=0, step_in_backward=False, **settings),
        optimizer=lambda model, masters: torch.optim.SGD([{'params': list(masters.values()), 'peak': 1e-3}], lr=1e-3),
        schedule=lambda step: 1.0,
        write_model=lambda model, folder: None,
    )


def gradients(made):
    return {name: p.grad.clone() for name, p in made.trained.items() if p.grad is not None}


def in_one_pass(made, objective, step, drawn, loss):
    """The gradient of a loss of all statistics at once, each micro-batch with the numbers that were drawn for it."""
    found = []
    for batch, each in zip(step, drawn, strict=True):
        each.again()
        found.append(loss.statistic(made.runner.outputs(batch, objective.needs), batch))
    total = loss.of(stepwide.whole(step, found))
    (total / sum(map(objective.count, step))).backward()
    return gradients(made)


class OfEmbeddings:
    statistic = staticmethod(lambda outputs, batch: outputs.pooled)

    def __init__(self, objective, step):
        self.of = lambda e: objective._losses(e, Rows.of(step)).sum()


class OfLogProbs:
    statistic = staticmethod(lambda outputs, batch: batch.per_sequence(outputs.logps))

    def __init__(self, objective, step):
        reference = stepwide.whole(step, [batch.per_sequence(batch.streams['ref_logps']) for batch in step])
        lengths = torch.ones_like(reference)
        self.of = lambda policy: objective._mix(objective._far, Pairs.of(policy, reference, lengths)).sum()


def embedding(**flags):
    return Embed(TaskArgs(**flags)), trial.alike(0), OfEmbeddings


def sorting():
    args = ObjectiveArgs(loss_type=['aot'], reference_free=False)
    return from_args(args), trial.preferences(0), OfLogProbs


CASES = {
    'InfoNCE, adapters': (lambda: llama(True), embedding, True),
    'InfoNCE, an encoder': (bert, embedding, True),
    'online, adapters': (lambda: llama(True), lambda: embedding(loss_type='online_contrastive'), True),
    'AOT, adapters': (lambda: llama(False), sorting, False),
}


WITH = [(case, {}) for case in CASES] + [
    (case, more)
    for case in ('InfoNCE, adapters', 'AOT, adapters')
    for more in ({'neftune_alpha': 5.0}, {'gradient_checkpointing': True})
]


@pytest.mark.parametrize(('case', 'settings'), WITH, ids=str)
def test_the_gradient_is_that_of_one_pass_with_the_same_dropout(case, settings):
    build, make, reads = CASES[case]
    made, (objective, rows, kind) = backend(build, reads, **settings), make()
    reference = lambda step: [torch.linspace(-3, -1, len(batch.input_ids)) for batch in step]
    step = [collate([rows[i] for i in part], part) for part in SPLIT]
    assert objective.repeats
    torch.manual_seed(11)
    firsts = []

    def first(batches):
        found = made.first_pass(batches, needs=objective.needs)
        firsts.extend(made._drawn)
        return found

    never = lambda batches: pytest.fail('a pass without dropout')
    step = streams.filled(step, objective, forward=never, reference=reference, first=first)
    made.forward_backward(step, objective)
    two, after = gradients(made), torch.get_rng_state()
    made._drop_gradients()
    one = in_one_pass(made, objective, step, firsts, kind(objective, step))
    assert two.keys() == one.keys() and any(each.abs().max() > 1e-3 for each in one.values())
    for name, each in one.items():
        torch.testing.assert_close(two[name], each, rtol=2e-4, atol=2e-5, msg=name)
    assert torch.equal(after, torch.get_rng_state()), 'the run goes on with numbers that were not drawn yet'


def test_without_the_same_dropout_the_gradient_is_another():
    made, (objective, rows, kind) = backend(lambda: llama(True), True), embedding()
    step = [collate([rows[i] for i in part], part) for part in SPLIT]
    torch.manual_seed(11)
    forward = lambda batches: made.forward(batches, needs=objective.needs)
    filled = streams.filled(step, objective, forward=forward, reference=None)
    state = torch.get_rng_state()
    made.forward_backward(filled, objective)
    two = gradients(made)
    made._drop_gradients()
    torch.set_rng_state(state)
    found = [made.runner.outputs(batch, objective.needs).pooled for batch in filled]
    (kind(objective, step).of(stepwide.whole(step, found)) / 6).backward()
    one = gradients(made)
    assert max(float((two[name] - each).abs().max()) for name, each in one.items()) > 1e-2


def test_a_step_of_one_batch_and_losses_of_single_rows_draw_nothing_beforehand():
    made, (objective, rows, _) = backend(lambda: llama(True), True), embedding(infonce_use_batch=False)
    assert not objective.repeats
    whole = embedding()[0]
    step = [collate(rows, range(len(rows)))]
    never = lambda batches: pytest.fail('a pass beforehand')
    assert streams.filled(step, whole, forward=never, reference=None, first=never) == [replace(step[0])]
    assert not made._drawn
