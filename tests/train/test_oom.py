"""Running out of memory says who held it and what to change; other errors pass untouched."""

import pytest
import torch

from swift.core.errors import OutOfMemory
from swift.train import oom

FULL = {'tuner_type': 'full', 'optim': 'adamw_torch_fused', 'per_device_train_batch_size': 4, 'torch_dtype': 'float32'}


def message(flags, error=None):
    with pytest.raises(OutOfMemory) as stopped, oom.explained(lambda: {'weights': 3 * 2**30, 'gradients': 0}, flags):
        if error:
            raise error
        torch.empty(2**55)
    assert stopped.value.exit_code == 77
    return str(stopped.value)


def test_an_allocation_that_is_too_large_is_explained_with_owners_and_three_fixes():
    text = message(FULL)
    assert '3.00 GiB  weights' in text and 'gradients\n' not in text
    assert [line[2:4] for line in text.splitlines() if line[2:4] in ('1.', '2.', '3.', '4.')] == ['1.', '2.', '3.']
    assert '--optim adamw_8bit' in text and '--per_device_train_batch_size 1' in text


@pytest.mark.parametrize(
    'error', [MemoryError(), torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')]
)
def test_every_kind_of_running_out_is_recognised(error):
    text = message({'tuner_type': 'lora', 'gradient_checkpointing': True}, error)
    assert '--quant_bits 4' in text and '--gradient_checkpointing' not in text


def test_memory_that_runs_out_before_there_is_a_model_is_said_so():
    with pytest.raises(OutOfMemory, match='while the model was loaded'), oom.explained(dict, FULL):
        torch.empty(2**55)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match='shapes'), oom.explained(dict, FULL):
        raise RuntimeError('shapes do not match')


def test_the_owners_of_a_model_are_counted_by_role():
    model = torch.nn.Linear(10, 10, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    owners = oom.of_model(model, optimizer)
    assert owners['weights'] == owners['gradients'] == 400 and owners['optimizer'] == 804
    assert owners['full-precision copies of trained weights'] == 0
