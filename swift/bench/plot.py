"""A report as a picture: bars, a panel for each table, with the limit as a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OUR_COLOUR, THEIR_COLOUR, LIMIT_COLOUR = '#2a6fdb', '#b8bec9', '#c0392b'


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars from the bottom to the top: (name, value). ``ours``: the names that are drawn in our colour."""

    title: str
    bars: Sequence[tuple[str, float]]
    ours: Sequence[str]
    limit: float | None = None


def draw(panels: Sequence[Panel], path: Path) -> bool:
    """Write the picture; False if matplotlib is not installed or there is nothing to draw."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not panels:
        return False
    figure = Figure(figsize=(9, 0.9 + sum(0.6 + 0.28 * len(panel.bars) for panel in panels)), layout='constrained')
    heights = [1 + len(panel.bars) for panel in panels]
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={'height_ratios': heights})[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        names, values = zip(*panel.bars, strict=True)
        drawn = axis.barh(names, values)
        for bar, name in zip(drawn, names, strict=True):
            bar.set_color(OUR_COLOUR if name in panel.ours else THEIR_COLOUR)
        axis.bar_label(drawn, fmt='{:,.0f}', padding=3, fontsize=8)
        if panel.limit:
            axis.axvline(panel.limit, color=LIMIT_COLOUR, linestyle='--', label='limit')
        axis.set_title(panel.title, fontsize=10, loc='left')
        axis.tick_params(labelsize=8)
        axis.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=120)
    return True
