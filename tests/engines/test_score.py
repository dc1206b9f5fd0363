"""Scores of answers against references, on cases that can be counted by hand."""

from __future__ import annotations

import math

import pytest

from swift.engines.score import METRICS, words


def test_accuracy_counts_equal_answers():
    assert METRICS['acc']([' Paris', 'Rome', '42\n'], ['Paris', 'Paris', '42']) == {'acc': pytest.approx(2 / 3)}


def test_rouge_of_a_sentence_counted_by_hand():
    scores = METRICS['rouge'](['the cat sat on the mat'], ['the cat lay on a mat'])
    assert scores['rouge-1'] == pytest.approx(2 * 4 / 12)  # the, cat, on, mat
    assert scores['rouge-2'] == pytest.approx(2 * 1 / 10)  # the cat
    assert scores['rouge-l'] == pytest.approx(2 * 4 / 12)


def test_chinese_characters_are_words():
    assert words('GPT-2 是模型。') == ['gpt', '2', '是', '模', '型']
    assert METRICS['rouge'](['我是模型'], ['我是人'])['rouge-1'] == pytest.approx(2 * 2 / 7)


def test_no_answers_have_no_score():
    assert math.isnan(METRICS['acc']([], [])['acc'])
