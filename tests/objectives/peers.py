"""TRL's trainers on fixed log-probabilities: their loss, its gradient in the bigram model's weights, their metrics.

A trainer is made without its constructor; it is handed a model that looks log-probabilities up.
"""

from types import SimpleNamespace

import numpy as np
import torch

from swift.objectives import trial


class Alone:
    """An accelerator of one process."""

    device = torch.device('cpu')
    gather = gather_for_metrics = staticmethod(lambda values: values)


def trainer(kind, *, options=(), **attributes):
    """A trainer with these attributes and ``args`` of these options, that is in training and keeps metrics."""
    made = object.__new__(kind)
    made.accelerator, made.aux_loss_enabled = Alone(), False
    made._metrics, made._total_train_tokens, made._tp_size = {'train': Lists()}, 0, 1
    made.args = SimpleNamespace(gradient_checkpointing_kwargs=None, **dict(options))
    made.model = torch.nn.Module()
    made.model.is_gradient_checkpointing = False
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


class Lists(dict):
    """Metrics as TRL collects them."""

    def __missing__(self, key):
        self[key] = []
        return self[key]

    def means(self):
        return {name: float(np.mean(values)) for name, values in self.items()}


def padded(sequences):
    """input_ids, attention_mask, completion_mask of (ids, first of the answer) of sequences, padded on the right."""
    width = max(len(ids) for ids, _ in sequences)
    made = np.zeros((3, len(sequences), width), np.int64)
    for n, (ids, first) in enumerate(sequences):
        made[0, n, : len(ids)], made[1, n, : len(ids)], made[2, n, first : len(ids)] = ids, 1, 1
    return dict(zip(('input_ids', 'attention_mask', 'completion_mask'), torch.from_numpy(made), strict=True))


def bigram(weights, dtype=torch.float64):
    """A model as TRL calls one: labels -100 elsewhere than at answers, log_probs [N, L - 1] out."""

    def model(input_ids, labels, **_):
        table = torch.log_softmax(weights.table, -1).to(dtype)
        answer = labels[:, 1:] != -100
        log_probs = torch.where(answer, table[input_ids[:, :-1], input_ids[:, 1:]], 0.0)
        nothing = torch.zeros_like(log_probs)
        top = table.argmax(-1)[input_ids[:, :-1]] == input_ids[:, 1:]
        return SimpleNamespace(log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=top)

    return model


def logits(weights):
    """A model as TRL's experimental trainers call one: logits [N, L, V] out."""
    return lambda input_ids, **_: SimpleNamespace(logits=weights.table[input_ids])


def scored(scores):
    """What a reward model gives: logits [N, 1]."""
    return SimpleNamespace(logits=scores[:, None])


def sequences(rows, member):
    return [trial.sequences(row)[member] for row in rows]


def differentiated(loss_of, policy):
    """(loss, gradient, more) of ``loss_of(weights) -> (loss, more)``."""
    weights = trial.Weights(*(each.clone().requires_grad_() for each in policy))
    loss, more = loss_of(weights)
    loss.backward()
    gradient = [each.grad if each.grad is not None else torch.zeros_like(each) for each in weights]
    return float(loss.detach()), torch.cat([each.flatten() for each in gradient]).numpy(), more
