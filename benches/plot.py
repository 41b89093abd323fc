"""The table as a picture: an SVG without scripts or fonts of its own, for light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log2

from figures import short
from table import Line

__all__ = ["draw"]

WIDTH = 960
ROW = 22
TOP = 58
#: Where the scale begins and ends, and where the figures stand.
LEFT, RIGHT = 390, 820
FIGURES = WIDTH - 12

_STYLE = """
  .paper { fill: #ffffff } text { fill: #1f2328; font: 12px system-ui, sans-serif }
  .title { font-size: 15px; font-weight: 600 } .section { font-weight: 600 } .quiet { fill: #59636e }
  .grid { stroke: #d1d9e0 } .one { stroke: #59636e; stroke-width: 1.5 }
  .met { stroke: #1a7f37; fill: #1a7f37 } .short { stroke: #bc4c00; fill: #bc4c00 }
  .goal { stroke: #0969da; stroke-width: 2 } .dot { stroke-width: 2 } .short.dot { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } text { fill: #e6edf3 } .quiet { fill: #9198a1 }
    .grid { stroke: #30363d } .one { stroke: #9198a1 }
    .met { stroke: #3fb950; fill: #3fb950 } .short { stroke: #f0883e; fill: #f0883e }
    .goal { stroke: #58a6ff } .short.dot { fill: #0d1117 }
  }
"""


def draw(lines: Sequence[Line], words: str) -> str:
    """The measured lines that have a goal; ``words`` say where it was measured."""
    shown = [line for line in lines if line.speed is not None and line.speed_goal is not None]
    ends = [end for line in shown for end in (*(line.speed or ()), line.speed_goal or 1.0)]
    low, high = floor(log2(min([*ends, 0.5]))), ceil(log2(max([*ends, 2.0])))
    sections = len({line.section for line in shown})
    height = TOP + ROW * (len(shown) + sections) + 34
    body = "\n".join(_body(shown, low, high, height))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="walspool beside limits and peers">\n<style>{_STYLE}</style>\n'
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>\n'
        f'<text class="title" x="12" y="22">walspool, times as fast as what stands beside it</text>\n'
        f'<text class="quiet" x="12" y="40">{escape(words)}</text>\n{body}\n</svg>\n'
    )


def _body(shown: Sequence[Line], low: int, high: int, height: int) -> Iterator[str]:
    def at(speed: float) -> float:
        return LEFT + (log2(speed) - low) / (high - low) * (RIGHT - LEFT)

    for power in range(low, high + 1):
        x, kind = at(2.0**power), "one" if power == 0 else "grid"
        yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 28}"/>'
        name = f"{2**power}" if power >= 0 else f"1/{2**-power}"
        yield f'<text class="quiet" x="{x:.1f}" y="{height - 12}" text-anchor="middle">{name}</text>'
    y, section = TOP, ""
    for line in shown:
        if line.section != section:
            section = line.section
            y += ROW
            yield f'<text class="section" x="12" y="{y - 6}">{escape(section)}</text>'
        y += ROW
        yield from _row(line, y, at(line.speed[0]), at(line.speed[1]), at(line.speed[2])) if line.speed else ()
        if line.speed_goal is not None:
            x = at(line.speed_goal)
            yield f'<line class="goal" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 17}" y2="{y - 3}"/>'
    yield (
        f'<text class="quiet" x="{FIGURES}" y="22" text-anchor="end">'
        "dot: median (hollow: short of its goal), line: lowest to highest round, blue: goal</text>"
    )


def _row(line: Line, y: int, middle: float, low: float, high: float) -> Iterator[str]:
    figure = line.figure
    assert figure is not None
    kind = "met" if figure.met else "short"
    yield f'<text x="24" y="{y - 6}">{escape(line.work)}</text>'
    yield f'<text class="quiet" x="{LEFT - 12}" y="{y - 6}" text-anchor="end">{escape(line.beside)}</text>'
    yield f'<line class="{kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y - 10}" y2="{y - 10}" stroke-width="2"/>'
    yield f'<circle class="{kind} dot" cx="{middle:.1f}" cy="{y - 10}" r="4"/>'
    yield f'<text x="{FIGURES}" y="{y - 6}" text-anchor="end">{_words(line)}</text>'


def _words(line: Line) -> str:
    assert line.speed is not None
    return f"{short(line.speed[0])}, goal {short(line.speed_goal or 0)}"
