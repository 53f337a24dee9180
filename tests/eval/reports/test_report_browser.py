"""A browser opens the report: no complaint, all series, tables that sort."""

import json
import re
import shutil
import subprocess

import pytest

from tests.support.report_page import BROWSER, Page, browse, browser
from tests.support.reports import MODELS

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


def test_a_browser_opens_it_without_a_complaint_and_finds_all_series(planted, tmp_path):
    dom, console = browse(planted / "all.html", tmp_path)
    assert console == []
    page = Page(dom)
    assert page.all("title")[0]["text"].startswith("What the cut gives and costs")  # no hostile script ran
    series = {}
    for svg in page.all("svg", class_="chart"):
        series[svg["id"]] = [e["data-series"] for e in page.within(svg, "g") if "data-series" in e]
    others = [label for label in MODELS if label != "full"]
    assert series["accuracy-difference"] == series["answer-nll-bits-difference"] == others * 3
    assert series["accuracy-0"] == ["medical choice", "math choice"]
    assert series["answer-greedy-0"] == ["math generation"]
    assert series["answer-nll-bits-difference-0"] == ["medical choice", "math choice", "math generation"]
    assert [series[f"map-{i}"] for i in range(3)] == [["medical choice"], ["math choice"], ["math generation"]]
    marks = page.within(page.one("svg", id="answer-nll-bits-difference-0"), "circle")
    assert len(marks) == 7  # of the first line, sizes 0-6
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text((planted / "all.html").read_text("utf-8").replace('"use strict";', '"use strict"; '), "utf-8")
    assert "script-src" in "".join(browse(spoilt, tmp_path)[1])  # so complaints would be seen, and the policy holds


def test_tables_sort_by_a_click_both_ways_and_back(planted, tmp_path):
    clicks = """<script>
      const head = [...document.querySelectorAll("#domains-table thead th")];
      const place = head.findIndex((th) => th.textContent.startsWith("Δ accuracy, points"));
      const column = () => [...document.querySelectorAll("#domains-table tbody tr")]
        .map((row) => row.cells[place].dataset.sort);
      const found = [column()], states = [], spoken = [];
      for (let i = 0; i < 3; i++) {
        head[place].querySelector("button").click();
        found.push(column());
        states.push(head[place].getAttribute("aria-sort"));
        spoken.push(document.getElementById("sorted").textContent);
      }
      const made = document.createElement("pre");
      made.id = "found";
      made.textContent = JSON.stringify({ found, states, spoken });
      document.body.append(made);
    </script></body>"""
    copy = tmp_path / "copy.html"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", (planted / "all.html").read_text("utf-8"))
    copy.write_text(text.replace("</body>", clicks), "utf-8")
    dom, console = browse(copy, tmp_path)
    assert console == []
    found = json.loads(Page(dom).one("pre", id="found")["text"])
    first, up, down, back = ([x if x is None else float(x) for x in column] for column in found["found"])
    numbers = [x for x in first if x is not None]
    empty = [None] * first.count(None)  # the full model has no change; its cells stay at the end
    assert up == [*sorted(numbers), *empty]
    assert down == [*sorted(numbers, reverse=True), *empty]
    assert back == first != up
    assert found["states"] == ["ascending", "descending", "none"]
    assert found["spoken"][0] == "Sorted by Δ accuracy, points, ascending"


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="no pdftotext here")
def test_all_that_is_folded_away_is_printed(planted, page, tmp_path):
    path = planted / "all.html"
    paper = tmp_path / "paper.pdf"
    browser("--no-pdf-header-footer", f"--print-to-pdf={paper}", path=path, tmp_path=tmp_path)
    done = subprocess.run(["pdftotext", "-layout", paper, "-"], capture_output=True, timeout=60, check=True)
    words = done.stdout.decode().split()
    folded = page.within(page.one("section", id="flips"), "article")
    known = sum("clinical_knowledge" in example["text"] for example in folded)
    assert words.count("clinical_knowledge,") == known > 10  # where a question is from heads its example
    assert {"cheapest", "Dearest"} <= set(words)  # the table of a map, whose rows are many
