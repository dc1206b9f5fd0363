"""swift rlhf --rlhf_type gkd against TRL's GKDTrainer: the same rows, weights and teacher, the same ten steps."""

from functools import partial

import pytest

from tests import tiny
from tests.commands.test_rlhf_against_trl import ours, read, same, theirs, world  # noqa: F401


@pytest.mark.parametrize('beta', [0.0, 0.5, 1.0])
def test_ten_steps_of_distillation_equal_trl(world, tmp_path, beta):  # noqa: F811
    from transformers import AutoModelForCausalLM
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    tiny.folder(tmp_path / 'teacher', 'qwen3', seed=5, hidden_size=48)
    flags = f'--rlhf_type gkd --teacher_model {tmp_path / "teacher"} --lmbda 0 --temperature 1 --beta {beta}'
    found = ours(world, tmp_path / 'ours', 'judged.jsonl', *flags.split())
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path / 'teacher', dtype='float32')
    rows = [{'messages': row['messages']} for row in read(world / 'judged.jsonl')]
    kind = partial(GKDTrainer, teacher_model=teacher)
    same(found, theirs(world, tmp_path / 'theirs', kind, GKDConfig, rows, lmbda=0.0, beta=beta), [])
