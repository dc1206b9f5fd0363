"""Every kernel beside its plain twin, on the shapes that are timed."""

import pytest

from swift.kernels.check import CASES
from swift.verify.kernels import check


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_a_kernel_computes_what_its_plain_twin_does(case):
    found = list(check(case))
    assert found and not [each for each in found if each.failed]
