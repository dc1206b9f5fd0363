"""The GPU cells, tried on a processor with tiny configs."""

from swift.commands import bench


def test_a_cell_runs_on_a_processor(tmp_path, capsys):
    words = [
        'gpu',
        '--device',
        'cpu',
        '--tiny',
        '--cells',
        'lora-0.6b',
        '--repeats',
        '1',
        '--output_dir',
        str(tmp_path),
    ]
    code = bench.main(words)
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert '0.6B LoRA' in printed and 'plain, padded' in printed
