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


@pytest.mark.parametrize(('words', 'why'), [(['off', 'norm'], 'off stands alone'), (['normm'], 'did you mean norm')])
def test_words_that_choose_nothing_are_named(words, why):
    with pytest.raises(ConfigError, match=why):
        wanted(words)
