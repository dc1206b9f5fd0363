"""Shapes of a run: read off a source without moving it; the worst comes first."""

import torch

from swift.core.types import Batch, Segments
from swift.plan.work import Shape, work


def batch(*lengths, targets=1):
    total = sum(lengths)
    weight = torch.zeros(total)
    weight[total - targets :] = 1
    return Batch(torch.zeros(total, dtype=torch.long), torch.zeros(total, dtype=torch.long), Segments(lengths), weight)


class Source:
    """Steps that are gone once they were taken, unless the state is put back."""

    def __init__(self, *steps):
        self.steps, self.at = steps, 0

    def __iter__(self):
        while self.at < len(self.steps):
            self.at += 1
            yield self.steps[self.at - 1]

    def state_dict(self):
        return {'at': self.at}

    def load_state_dict(self, state):
        self.at = state['at']


def test_the_worst_micro_batch_comes_first_and_the_source_stays_where_it_was():
    source = Source([batch(8, targets=3), batch(5, 5)], [batch(10, targets=4)])
    found = work(source, 6)
    assert found.stretches[0] == (Shape((10,), 4),)
    assert source.at == 0
    assert (found.tokens, found.steps) == (84, 6)


def test_of_equally_long_micro_batches_the_one_with_longer_sequences_is_worse():
    assert work(Source([batch(4, 4), batch(8), batch(2, 6)]), 1).worst == Shape((8,), 1)


def test_micro_batches_of_a_step_come_in_pairs_as_gradients_wait_for_the_next():
    found = work(Source([batch(4), batch(9), batch(2)], [batch(8)]), 2)
    assert set(found.stretches[:2]) == {(Shape((4,), 1), Shape((9,), 1)), (Shape((9,), 1), Shape((2,), 1))}
    assert (Shape((8,), 1),) in found.stretches
