"""Steps whose completions are written while training runs: who writes them, what becomes of rows, resuming."""

import numpy as np
import pytest
import torch

from swift.core.types import Encoded, Origin, Sampling
from swift.data.collate import collate
from swift.objectives.distill import OWN
from swift.rollout.completions import Rewritten, Rules

ANSWERS = {'student': (7, 8, 2), 'teacher': (9, 2)}


class Steps:
    """A source of ``count`` equal steps of two micro-batches."""

    def __init__(self, count=40):
        self.count, self.at, self.epoch = count, 0, 0.0

    def __len__(self):
        return self.count

    def __iter__(self):
        while self.at < self.count:
            self.at += 1
            yield [collate([row(5, 3), row(4, 4)], [0, 2]), collate([row(6, 2)], [1])]

    def state_dict(self):
        return {'at': self.at}

    def load_state_dict(self, state):
        self.at = state['at']


def row(size, first):
    """``size`` tokens, of which those from ``first`` on carry loss; none does where it is the size."""
    weight = (np.arange(size) >= first).astype(np.float32)
    return Encoded(np.arange(10, 10 + size, dtype=np.int32), weight, np.zeros(size, np.uint8), Origin('rows', size))


def rewritten(source=None, *, share=0.5, teacher=True, asked=None, **rules):
    def by(name):
        def write(requests):
            if asked is not None:
                asked.extend(requests)
            return [ANSWERS[name]] * len(requests)

        return write

    settings = Rules(share, Sampling(max_tokens=64, temperature=0.9), max_length=32, seed=3, **rules)
    return Rewritten(source or Steps(), settings, student=by('student'), teacher=by('teacher') if teacher else None)


def test_a_completion_stands_in_place_of_what_carried_loss():
    first, second = next(iter(rewritten(share=1.0)))
    assert first.segments.lengths == (6, 4)  # the second row trains nothing, and stays
    assert first.input_ids.tolist() == [10, 11, 12, 7, 8, 2, 10, 11, 12, 13]
    assert first.weight.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]
    assert first.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert first.streams[OWN].tolist() == (first.weight != 0).tolist()
    assert second.input_ids.tolist() == [10, 11, 7, 8, 2]
    assert [str(origin) for origin in first.origins] == ['rows:5', 'rows:4']
    assert (first.places, second.places) == ((0, 2), (1,))


def test_steps_are_cut_anew_where_micro_batches_have_a_size():
    parts = next(iter(rewritten(share=1.0, max_tokens=6)))
    assert sorted(part.segments.lengths for part in parts) == [(4,), (5,), (6,)]
    assert sorted(place for part in parts for place in part.places) == [0, 1, 2]


@pytest.mark.parametrize(('share', 'teacher'), [(0.0, True), (0.3, True), (0.3, False), (1.0, True)])
def test_as_many_steps_as_asked_for_are_the_students(share, teacher):
    steps = list(rewritten(Steps(400), share=share, teacher=teacher))
    own = [bool(step[0].streams.get(OWN, torch.tensor(False)).any()) for step in steps]
    assert sum(own) / len(own) == pytest.approx(share, abs=0.07)
    for mine, step in zip(own, steps, strict=True):
        assert step[1].input_ids.tolist()[2:] == list(
            ANSWERS['student'] if mine else ANSWERS['teacher'] if teacher else range(12, 16)
        )


def test_every_draw_has_a_seed_of_its_own_and_stays_within_the_length():
    asked = []
    list(rewritten(Steps(3), share=1.0, asked=asked))
    assert [request.prompt_ids for request in asked[:2]] == [(10, 11, 12), (10, 11)]
    assert [request.sampling.max_tokens for request in asked[:2]] == [29, 30]
    assert len({request.sampling.seed for request in asked}) == len(asked) == 6


def test_a_resumed_source_asks_for_the_same_completions():
    whole, first, rest = [], [], []
    list(rewritten(share=0.5, asked=whole))
    stopped = rewritten(share=0.5, asked=first)
    steps = iter(stopped)
    for _ in range(17):
        next(steps)
    again = rewritten(share=0.5, asked=rest)
    again.load_state_dict(stopped.state_dict())
    list(again)
    assert first + rest == whole
