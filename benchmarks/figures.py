"""What a benchmark answers, and how it is shown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line: a median (or the one figure that there is) and its 99th percentile in `unit`;
    `ratio` is the median's to that of the row named `to`."""

    name: str
    median: float
    p99: float | None
    unit: str
    ratio: float | None = None
    to: str = ""
    aim: str = ""


@dataclass
class Report:
    """One benchmark: its rows, and what has to be said about them."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        lines = [self.title, "-" * len(self.title)]
        for row in self.rows:
            median, p99 = _number(row.median), "" if row.p99 is None else _number(row.p99)
            line = f"{row.name:<{width}} {median:>10} {p99:>10} {row.unit:<6}"
            if row.ratio is not None:
                line += f" {row.ratio:6.2f} of {row.to}"
                line += f" (aim {row.aim})" if row.aim else ""
            lines.append(line.rstrip())
        return "\n".join([*lines, *self.notes, ""])


def row(
    name: str, seconds: Sequence[float], base: tuple[str, float] | None = None, aim: str = ""
) -> Row:
    """Of times in seconds, in milliseconds; `base` is another row's name and median."""
    median, p99 = statistics.median(seconds) * 1000, percentile(seconds, 99) * 1000
    if base is None:
        return Row(name, median, p99, "ms")
    return Row(name, median, p99, "ms", median / (base[1] * 1000), base[0], aim)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line nearest to them."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def write(reports: dict[str, Report], directory: Path) -> None:
    """results.json and one SVG for each report."""
    directory.mkdir(parents=True, exist_ok=True)
    plain = {name: asdict(report) for name, report in reports.items()}
    (directory / "results.json").write_text(json.dumps(plain, indent=2) + "\n")
    for name, report in reports.items():
        (directory / f"{name}.svg").write_text(svg(report))


def svg(report: Report) -> str:
    """Bars of the medians with whiskers to the 99th percentile; one scale for each unit."""
    step, left, width = 34, 330, 420
    height = 50 + step * len(report.rows)
    largest: dict[str, float] = {}
    for each in report.rows:
        largest[each.unit] = max(largest.get(each.unit, 0), each.median, each.p99 or 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 130}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="22" font-size="15">'
        f"{_escaped(report.title)}</text>",
    ]
    for index, each in enumerate(report.rows):
        y = 40 + step * index
        scale = width / (largest[each.unit] or 1)
        bar, end = left + each.median * scale, left + (each.p99 or each.median) * scale
        long = max(bar - left, 1)
        parts += [
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{_escaped(each.name)}</text>',
            f'<rect x="{left}" y="{y}" width="{long:.1f}" height="20" fill="#4878a8"/>',
            f'<path d="M{bar:.1f} {y + 10} H{end:.1f} M{end:.1f} {y + 4} v12" stroke="#333"/>',
            f'<text x="{max(bar, end) + 6:.1f}" y="{y + 15}">'
            f"{_number(each.median)} {each.unit}</text>",
        ]
    return "\n".join([*parts, "</svg>", ""])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
