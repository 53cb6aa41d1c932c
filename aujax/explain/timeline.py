"""The answers over the course of a video, as a chart in SVG that stands in the page."""

import html
from collections.abc import Sequence

from aujax.explain.explanation import Explanation
from aujax.report import markup
from aujax.report.sheet import LINES

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 200, 34, 24
_DASHES = ("", "6 3", "2 3")


def timeline(frames: Sequence[Explanation], name: str) -> str:
    """Returns the chart of the probabilities of all expressions that are predicted somewhere in a video.

    `frames` are those of one face each, in the order of their times; their colours and dashes tell lines apart.
    """
    shown = [one for one in frames[0].probabilities if any(frame.expression == one for frame in frames)]
    start, end = frames[0].second or 0.0, frames[-1].second or 0.0
    x = [_LEFT + _WIDTH * ((frame.second or 0.0) - start) / max(end - start, 1e-6) for frame in frames]
    lines, legend = [], []
    for number, expression in enumerate(shown):
        colour, dashes = LINES[number % len(LINES)], _DASHES[number // len(LINES) % len(_DASHES)]
        style = f'fill="none" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"'
        points = " ".join(
            f"{at:.1f},{_up(frame.probabilities[expression]):.1f}" for at, frame in zip(x, frames, strict=True)
        )
        lines.append(f'<polyline points="{points}" {style}/>')
        sample = f'<svg width="28" height="10" aria-hidden="true"><path d="M0 5H28" {style}/></svg>'
        legend.append(f"<li>{sample} {html.escape(expression)}</li>")
    words = f"Probability over time in {name}"
    size = f"0 0 {_LEFT + _WIDTH + 20} {_HEIGHT + _BOTTOM + 8}"
    label = f'role="img" aria-label="{markup.attribute(words)}"'
    chart = f'<svg viewBox="{size}" {label}>{_axes(start, end)}{"".join(lines)}</svg>'
    return (
        f'<figure class="timeline"><figcaption>{html.escape(words)}</figcaption>{markup.scrolling(chart, label=words)}'
        f"<ul>{''.join(legend)}</ul></figure>"
    )


def _up(probability: float) -> float:
    return 8 + _HEIGHT * (1 - probability)


def _axes(start: float, end: float) -> str:
    parts = []
    for value in (0.0, 0.5, 1.0):
        y = _up(value)
        parts.append(f'<path d="M{_LEFT} {y}h{_WIDTH}" stroke="#d5dae0"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        words = f"{start + share * (end - start):.1f} s"
        y = _up(0.0) + 18
        parts.append(f'<text x="{_LEFT + share * _WIDTH}" y="{y}" text-anchor="{anchor}">{words}</text>')
    return "".join(parts)
