"""Kernels beside eager: times are told, numbers decide."""

import dataclasses

import pytest
import torch

from swift.bench import kernels
from swift.bench.cases import CASES
from swift.commands import bench


def test_every_kernel_has_right_numbers_in_the_short_form(capsys):
    assert bench.main(['kernels', '--tiny', '--quick']) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in CASES)


def test_wrong_numbers_are_called_wrong(monkeypatch):
    wrong = dataclasses.replace(CASES['gated'], fast=lambda x, shape: [torch.relu(x[0]) * x[1]])
    monkeypatch.setitem(CASES, 'gated', wrong)
    results = list(kernels.measure(['gated'], ['tiny'], 'cpu', tries=1))
    assert not any(each.right for each in results)
    assert any('WRONG' in row for row in kernels.table_of(results))


def test_no_time_is_ever_wrong():
    slow = kernels.Result('a', 'tiny', 'bfloat16', fast=100.0, plain=1.0, fast_error=1e-4, plain_error=1e-3)
    assert slow.right and slow.ratio == pytest.approx(0.01)
