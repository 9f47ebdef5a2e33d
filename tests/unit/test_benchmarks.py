"""The figures of the benchmarks: what they say is what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import figures
from benchmarks.figures import Report, Row


def test_a_row_is_the_median_the_percentile_and_a_ratio() -> None:
    seconds = [index / 1000 for index in range(1, 101)]
    row = figures.row("new", seconds, ("old", 0.101), "≤ 0.5")
    assert (row.median, row.p99, row.unit) == (pytest.approx(50.5), pytest.approx(100), "ms")
    assert row.ratio == pytest.approx(0.5)
    assert (row.to, row.aim) == ("old", "≤ 0.5")


def test_a_slope_is_that_of_the_line() -> None:
    assert figures.slope([(0, 5), (1, 7), (2, 9)]) == pytest.approx(2)


def test_a_report_is_text_json_and_a_drawing(tmp_path: Path) -> None:
    report = Report("A <title>", [Row("a & b", 1, 2, "ms"), Row("left", 0, None, "")], ["A note."])
    assert "a & b" in report.text()
    assert "A note." in report.text()
    figures.write({"one": report}, tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["one"]["rows"][0]["p99"] == 2
    drawing = ElementTree.fromstring((tmp_path / "one.svg").read_text())  # noqa: S314  # ours
    texts = [each.text for each in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A <title>", "a & b", "left"} <= set(texts)
