"""Which kernels words choose."""

from __future__ import annotations

import pytest

from swift.core.errors import ConfigError
from swift.kernels.switch import KERNELS, NAMED, wanted


@pytest.mark.parametrize(
    ('words', 'chosen'),
    [
        ([], KERNELS.keys() - NAMED),
        (['auto'], KERNELS.keys() - NAMED),
        (['auto', 'residual'], {*KERNELS}),
        (['norm', 'residual'], {'norm', 'residual'}),
        (['off'], set()),
    ],
)
def test_words_choose_kernels(words, chosen):
    assert wanted(words) == chosen


@pytest.mark.parametrize('words', [['off', 'norm'], ['normm']])
def test_words_that_choose_none_are_named(words):
    with pytest.raises(ConfigError, match='no such kernel'):
        wanted(words)
