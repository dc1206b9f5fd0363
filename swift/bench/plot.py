"""The report as a picture: tokens a second of every side, a panel for each cell, with the limit as a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swift.bench import ratio
from swift.bench.peers import OURS

OUR_COLOUR, THEIR_COLOUR, LIMIT_COLOUR = '#2a6fdb', '#b8bec9', '#c0392b'


def draw(found: dict[str, Any], path: Path) -> bool:
    """Write the picture; False if matplotlib is not installed or there is nothing to draw."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    panels = []
    for cell in found['cells'].values():
        if cell['cell']['kind'] == 'train' and cell['cell']['steps'] <= ratio.WARM:
            continue
        values = ratio.tokens_per_second if cell['cell']['kind'] == 'train' else ratio.rate
        good = {name: [run for run in runs if run['ok']] for name, runs in cell['sides'].items()}
        bars = sorted((ratio.median(runs, values), name) for name, runs in good.items() if runs)
        if bars:
            panels.append((cell, bars))
    if not panels:
        return False
    figure = Figure(figsize=(9, 0.9 + sum(0.6 + 0.28 * len(bars) for _, bars in panels)), layout='constrained')
    heights = [1 + len(bars) for _, bars in panels]
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={'height_ratios': heights})[:, 0]
    for axis, (cell, bars) in zip(axes, panels, strict=True):
        names = [name for _, name in bars]
        drawn = axis.barh(names, [value for value, _ in bars])
        for bar, name in zip(drawn, names, strict=True):
            bar.set_color(OUR_COLOUR if name == OURS else THEIR_COLOUR)
        axis.bar_label(drawn, fmt='{:,.0f}', padding=3, fontsize=8)
        if cell['limit']:
            axis.axvline(cell['limit'], color=LIMIT_COLOUR, linestyle='--', label='limit')
        unit = 'tokens/s' if cell['cell']['kind'] == 'train' else 'a second'
        axis.set_title(f'{cell["cell"]["title"]} ({unit})', fontsize=10, loc='left')
        axis.tick_params(labelsize=8)
        axis.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=120)
    return True
