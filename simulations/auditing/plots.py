"""Plots as SVG: histograms of scores, trade-offs, values and ratios side by side, points over levels, and lines."""

import html
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import median

import numpy as np

COLOURS = ("#0b6e99", "#d9730d", "#8a8f98", "#4d7c3a")
WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 34, 44
BINS = 40
LEAST_RATE = 1e-3


def histogram(groups: Mapping[str, Sequence[float]], label: str) -> str:
    """Overlapping histograms of several groups, each as shares of its own size."""
    values = np.concatenate([np.asarray(group, dtype=float) for group in groups.values()])
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    shares = {name: np.histogram(group, edges)[0] / len(group) for name, group in groups.items()}
    highest = max(float(share.max()) for share in shares.values()) or 1.0
    parts = [_grid(_ticks(low, high), _ticks(0.0, highest), (low, high), (0.0, highest), label, "share of its group")]
    for (_, share), colour in zip(shares.items(), COLOURS, strict=False):
        for start, end, value in zip(edges, edges[1:], share, strict=False):
            if value:
                x, y = _x(start, low, high), _y(value, 0.0, highest)
                width = max(1.0, _x(end, low, high) - x - 1)
                parts.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{HEIGHT - BOTTOM - y:.1f}" '
                    f'fill="{colour}" fill-opacity="0.55"/>'
                )
    return _svg([*parts, _legend([f"{name} ({len(group)})" for name, group in groups.items()])], HEIGHT, label)


def trade_off(inside: Sequence[float], outside: Sequence[float]) -> str:
    """True against false positive rate of the scores, both on logarithmic axes."""
    scores = np.concatenate([inside, outside])
    thresholds = np.unique(scores)
    true = [float((np.asarray(inside) >= threshold).mean()) for threshold in thresholds]
    false = [float((np.asarray(outside) >= threshold).mean()) for threshold in thresholds]
    span = (math.log10(LEAST_RATE), 0.0)
    ticks = {math.log10(rate): f"{rate:.1%}" for rate in (0.001, 0.01, 0.1, 1.0)}
    parts = [_grid(ticks, ticks, span, span, "others taken for members", "members found")]
    points = [(_log(f), _log(t)) for f, t in sorted(zip(false, true, strict=True))]
    for pairs, style in (
        ([(span[0], span[0]), (0.0, 0.0)], f'stroke="{COLOURS[2]}" stroke-dasharray="4 4"'),
        (points, f'stroke="{COLOURS[0]}" stroke-width="2"'),
    ):
        path = " ".join(f"{_x(x, *span):.1f},{_y(y, *span):.1f}" for x, y in pairs)
        parts.append(f'<polyline points="{path}" fill="none" {style}/>')
    return _svg([*parts, _legend(["these scores"])], HEIGHT, "true against false positives")


def bars(values: Mapping[str, float], label: str) -> str:
    """Values side by side as horizontal bars, the number beside each."""
    height = TOP + 34 * len(values) + BOTTOM
    longest = max([*values.values(), 1e-9])
    left = 190
    parts = []
    for row, ((name, value), colour) in enumerate(zip(values.items(), cycle(COLOURS), strict=False)):
        y = TOP + 34 * row
        width = (WIDTH - left - 80) * value / longest
        parts.append(f'<text x="{left - 10}" y="{y + 16}" text-anchor="end">{html.escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{max(width, 1):.1f}" height="24" fill="{colour}"/>')
        parts.append(f'<text x="{left + max(width, 1) + 8:.1f}" y="{y + 16}">{value:.2f}</text>')
    axis = f'<text x="{left}" y="{height - 16}" class="label">{html.escape(label)}</text>'
    return _svg([*parts, axis], height, label)


def ratios(rows: Mapping[str, Sequence[float]], goals: Mapping[str, float], label: str) -> str:
    """A row of points for each name, its median as a number and a line, its goal, if it has one, dashed."""
    bottom = TOP + 30 * len(rows)
    left = 20 + 6.4 * max(map(len, rows))
    highest = 1.15 * max([1.0, *(value for values in rows.values() for value in values), *goals.values()])

    def across(value: float) -> float:
        return left + (WIDTH - RIGHT - left) * value / highest

    parts = []
    for value, text in _ticks(0.0, highest).items():
        x = across(value)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    for row, (name, values) in enumerate(rows.items()):
        y = TOP + 30 * row + 15
        parts.append(f'<text x="{left - 10:.1f}" y="{y + 4}" text-anchor="end">{html.escape(name)}</text>')
        for value in values:
            parts.append(f'<circle cx="{across(value):.1f}" cy="{y}" r="4" fill="{COLOURS[0]}" fill-opacity="0.6"/>')
        middle, end = across(median(values)), across(max(values))
        parts.append(_upright(middle, y, f'stroke="{COLOURS[0]}" stroke-width="2"'))
        parts.append(f'<text x="{end + 10:.1f}" y="{y + 4}">{median(values):.3g}</text>')
        if name in goals:
            parts.append(
                _upright(across(goals[name]), y, f'stroke="{COLOURS[1]}" stroke-width="2" stroke-dasharray="4 3"')
            )
    axis = f'<text x="{left:.1f}" y="{bottom + 36}" class="label">{html.escape(label)}</text>'
    legend = _legend(["each turn, and the median", "goal"] if goals else ["each turn, and the median"])
    return _svg([*parts, axis, legend], bottom + BOTTOM, label)


def lines(curves: Mapping[str, Sequence[float]], x_label: str, y_label: str) -> str:
    """Curves over 1, 2, 3 and so on, upwards from zero."""
    x_span = (1.0, max(2.0, *(float(len(values)) for values in curves.values())))
    y_span = (0.0, 1.05 * max(value for values in curves.values() for value in values) or 1.0)
    parts = [_grid(_ticks(*x_span), _ticks(*y_span), x_span, y_span, x_label, y_label)]
    for values, colour in zip(curves.values(), cycle(COLOURS), strict=False):
        points = " ".join(f"{_x(x, *x_span):.1f},{_y(y, *y_span):.1f}" for x, y in enumerate(values, 1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return _svg([*parts, _legend(list(curves))], HEIGHT, y_label)


def dots(
    groups: Mapping[str, Sequence[tuple[float, float]]],
    levels: Mapping[str, Sequence[float]],
    x_label: str,
    y_label: str,
) -> str:
    """Points of several groups, and values that hold for every x as lines, the mean of each thicker."""
    points = [point for group in groups.values() for point in group]
    heights = [y for _, y in points] + [value for values in levels.values() for value in values]
    x_span = _widened([x for x, _ in points])
    y_span = _widened(heights)
    parts = [_grid(_ticks(*x_span), _ticks(*y_span), x_span, y_span, x_label, y_label)]
    for (_, values), colour in zip(levels.items(), COLOURS[len(groups) :], strict=False):
        for value, width in [*((value, 1.0) for value in values), (sum(values) / len(values), 3.0)]:
            y = _y(value, *y_span)
            parts.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" '
                f'stroke-width="{width}" stroke-opacity="{0.4 if width == 1.0 else 1}"/>'
            )
    for (_, group), colour in zip(groups.items(), COLOURS, strict=False):
        for x, y in group:
            parts.append(f'<circle cx="{_x(x, *x_span):.1f}" cy="{_y(y, *y_span):.1f}" r="5" fill="{colour}"/>')
    return _svg([*parts, _legend([*groups, *levels])], HEIGHT, y_label)


def standalone(svg: str) -> str:
    """A plot as a file of its own, on white."""
    style = (
        "<style>text{font:12px sans-serif;fill:#333}.label{font-weight:bold}.grid{stroke:#e2e4e8}</style>"
        '<rect width="100%" height="100%" fill="#fff"/>'
    )
    head, rest = svg.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the most, and a twentieth of that on both sides."""
    low, high = min(values), max(values)
    margin = (high - low) / 20 or 0.5
    return low - margin, high + margin


def _upright(x: float, y: float, style: str) -> str:
    """A short line across a row."""
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 11}" y2="{y + 11}" {style}/>'


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    title = f"<title>{html.escape(label)}</title>"
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{title}{"".join(parts)}</svg>'


def _grid(
    across: Mapping[float, str],
    up: Mapping[float, str],
    x_span: tuple[float, float],
    y_span: tuple[float, float],
    x_label: str,
    y_label: str,
) -> str:
    parts = []
    for value, text in across.items():
        x = _x(value, *x_span)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{text}</text>')
    for value, text in up.items():
        y = _y(value, *y_span)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle" class="label">{html.escape(x_label)}</text>'
    )
    parts.append(f'<text x="{LEFT}" y="16" class="label">{html.escape(y_label)}</text>')
    return "".join(parts)


def _legend(names: Sequence[str]) -> str:
    parts, x = [], float(WIDTH - RIGHT)
    for name, colour in reversed(list(zip(names, COLOURS, strict=False))):
        parts.append(f'<text x="{x:.1f}" y="16" text-anchor="end">{html.escape(name)}</text>')
        x -= 6.6 * len(name) + 6
        parts.append(f'<rect x="{x - 10:.1f}" y="6" width="10" height="10" fill="{colour}"/>')
        x -= 26
    return "".join(parts)


def _ticks(low: float, high: float) -> dict[float, str]:
    """About five round values."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 6)
    first, last = math.ceil(low / step), math.floor(high / step)
    return {number * step: f"{number * step:g}" for number in range(first, last + 1)}


def _x(value: float, low: float, high: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)


def _y(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)


def _log(rate: float) -> float:
    return math.log10(max(rate, LEAST_RATE))
