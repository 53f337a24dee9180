"""Figures in files of their own: whole SVG with colours of their own, light and dark, and what the page shows."""

import re
from xml.etree import ElementTree

from eval.reports.drawing.sheet import sheet
from eval.reports.figures import write_comparison_figures, write_sweep_figures
from eval.reports.sections.comparison import domains_section, thinking_section
from tests.support.reports import sweep_document

SVG = "{http://www.w3.org/2000/svg}"


def test_a_figure_stands_alone_and_shows_all_series(comparison):
    section = domains_section(comparison)
    text = sheet(section)
    root = ElementTree.fromstring(text)
    assert "var(" not in text
    assert text.count("prefers-color-scheme: dark") == 1
    assert not re.search(r"href=|url\(|<script", text)
    series = [element.get("data-series") for element in root.iter(f"{SVG}g") if element.get("data-series")]
    assert series == ["pruned", "healed"] * 3 * 2
    words = [element.text for element in root.iter(f"{SVG}text")]
    assert {section.title, "pruned", "healed", "Change of accuracy", "Change of answer NLL"} <= set(words)
    assert sheet(section) == text


def test_drawings_do_not_overlap_and_stay_on_the_paper(comparison):
    root = ElementTree.fromstring(sheet(thinking_section(comparison)))
    paper = [float(root.get(name)) for name in ("width", "height")]
    drawn = [
        tuple(float(svg.get(name)) for name in ("x", "y", "width", "height"))
        for svg in root.findall(f"{SVG}svg")
        if svg.get("class") == "chart"
    ]
    assert len(drawn) == 9
    for x, y, width, height in drawn:
        assert x + width < paper[0]
        assert y + height < paper[1]
        others = [box for box in drawn if box[:2] != (x, y)]
        assert not any(abs(box[0] - x) < width and abs(box[1] - y) < height for box in others)


def test_a_figure_is_written_where_there_is_something_to_draw(comparison, tmp_path):
    write_comparison_figures({**comparison, "thinking": []}, tmp_path)
    write_sweep_figures(sweep_document(layers=12, sizes="0-3", rule="deepest", n=40), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"comparison.svg", "curves.svg"}
    write_sweep_figures({**sweep_document(layers=12, sizes="0-3", n=40), "curves": []}, tmp_path)
    assert (tmp_path / "map.svg").is_file()
