"""Log-probs and their gradient against float64 autograd."""

import pytest
import torch

from swift.kernels.logprobs import target_logprobs


@pytest.mark.parametrize('rows', [0, 1, 127, 128, 300])
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)
def test_log_probs_and_gradient_equal_float64_autograd(rows, dtype, tolerance):
    generator = torch.Generator().manual_seed(rows)
    logits = (torch.randn(rows, 97, generator=generator) * 4).to(dtype).requires_grad_()
    targets = torch.randint(0, 97, (rows,), generator=generator)
    pull = torch.randn(rows, generator=generator)

    found, correct = target_logprobs(logits, targets)
    (found * pull).sum().backward()

    wide = logits.detach().double().requires_grad_()
    expected = torch.log_softmax(wide, -1).gather(1, targets[:, None])[:, 0]
    (expected * pull).sum().backward()
    torch.testing.assert_close(found.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=tolerance, atol=tolerance)
    assert torch.equal(correct, wide.argmax(-1) == targets)
