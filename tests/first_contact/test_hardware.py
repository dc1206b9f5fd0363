"""What the machine is, and what to choose on it."""

import subprocess
import sys

import pytest

from swift.core.table import fold, side_by_side, table, width
from swift.plan import hardware
from swift.plan.advise import Size, recommend
from swift.plan.hardware import GB, Gpu, Machine

SMOL = Size(parameters=134_515_008, layers=30, width=576)
SEVEN_B = Size(parameters=7_600_000_000, layers=28, width=3584)


def machine(**changes) -> Machine:
    values = {
        'system': 'Debian', 'python': '3.11', 'cpu': 'A CPU', 'cores': 2, 'features': ('amx_bf16',),
        'memory': 24 * GB, 'memory_free': 20 * GB, 'disk_free': 50 * GB, 'gpus': (),
    }  # fmt: skip
    return Machine(**{**values, **changes})


def values(choices) -> dict[str, str]:
    return {choice.flag: choice.value for choice in choices}


def test_looking_at_this_machine_finds_sensible_numbers():
    found = hardware.look()
    assert found.cores >= 1
    assert GB / 10 < found.memory_free <= found.memory
    assert found.disk_free > 0
    assert found.cpu


def test_the_table_is_printed_without_importing_anything_that_must_be_installed():
    code = 'import sys; from swift.plan.hardware import main; main(["--language", "zh"]); print(sorted(sys.modules))'
    out = subprocess.run([sys.executable, '-S', '-c', code], capture_output=True, text=True, check=True).stdout
    assert '处理器' in out
    assert not any(f"'{name}'" in out for name in ('torch', 'transformers', 'rich', 'yaml', 'numpy'))


def test_a_container_limit_counts_as_the_memory(monkeypatch):
    files = {
        '/proc/meminfo': 'MemTotal: 24000000 kB\nMemAvailable: 20000000 kB\n',
        '/sys/fs/cgroup/memory.max': '4000000000\n',
        '/sys/fs/cgroup/memory.current': '1000000000\n',
        '/sys/fs/cgroup/cpu.max': '150000 100000\n',
    }
    monkeypatch.setattr(hardware, '_read', lambda path: files.get(path, ''))
    assert hardware._memory() == (4 * GB, 3 * GB)
    assert hardware._cores() == 1


def test_a_gpu_is_read_from_what_the_driver_lists(monkeypatch):
    monkeypatch.setattr(
        hardware, '_run', lambda *command: 'NVIDIA H100 80GB HBM3, 81559' if 'smi' in command[0] else ''
    )
    assert hardware._gpus()[0] == Gpu('cuda', 'NVIDIA H100 80GB HBM3', 81559 * 2**20)


def test_a_small_model_on_a_fast_cpu_is_trained_plainly():
    assert values(recommend(machine(), SMOL)) == {
        'tuner_type': 'lora',
        'torch_dtype': 'bfloat16',
        'packing_length': '1024',
        'gradient_checkpointing': 'false',
        'quant_bits': 'none',
    }


def test_packs_are_no_longer_than_asked_for():
    assert values(recommend(machine(), SMOL, longest=512))['packing_length'] == '512'


def test_an_old_cpu_gets_float32():
    assert values(recommend(machine(features=('avx2',)), SMOL))['torch_dtype'] == 'float32'


def test_a_model_that_fills_the_card_is_quantised_and_recomputed():
    chosen = values(recommend(machine(gpus=(Gpu('cuda', 'A card', 16 * GB),)), SEVEN_B))
    assert chosen['quant_bits'] == '4'
    assert chosen['gradient_checkpointing'] == 'true'


@pytest.mark.parametrize('language', ['en', 'zh'])
def test_every_choice_has_a_reason_with_its_numbers_filled_in(language):
    for choice in recommend(machine(), SMOL, language):
        assert len(choice.reason) > 10
        assert '{' not in choice.reason


def test_chinese_takes_two_cells_and_columns_stay_aligned():
    lines = list(table([('内存', 'a'), ('CPU', 'b')]))
    assert [width(line) for line in lines] == [width(lines[0])] * 2
    assert fold('一二三四五', 4) == ['一二', '三四', '五']


def test_two_answers_stand_side_by_side():
    lines = list(side_by_side('I am A.', '我是小锤。' * 10, cells=60))
    assert len(lines) > 1
    assert all('│' in line and width(line) <= 60 for line in lines)
