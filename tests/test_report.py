"""The report: its structure, its numbers, what it may load (nothing), hostile text, and a browser that opens it."""

import base64
import hashlib
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from report_documents import HOSTILE, MODELS, write_bill, write_sweep_folder
from typer.testing import CliRunner

from eval.cli import app
from eval.reports.charts import Curve, Dot, Group, Point, curves, forest
from eval.reports.interactions import in_words, thinking_in_words
from eval.reports.maps import LEAST, SHADES, Counts, block_map, mosaic, shade
from eval.reports.reporting import read_results, render, report
from eval.reports.svg import Scale, tick_words, ticks
from eval.reports.text import bounds, p_value, plain, signed
from prune.errors import CheckpointError, RegrowthError, UsageError

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """The tree of a page, flat: every element with its attributes, its path of tags and its whole text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.stack = [], []
        self.feed(text)
        assert not self.stack, [e["tag"] for e in self.stack]

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "inside": list(self.stack), **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack[-1]["tag"] == tag, (self.stack[-1]["tag"], tag)
        self.stack.pop()

    def handle_data(self, data):
        for element in self.stack:
            element["text"] += data

    def all(self, tag, **wanted):
        return [
            e for e in self.elements if e["tag"] == tag and all(e.get(k.rstrip("_")) == v for k, v in wanted.items())
        ]

    def one(self, tag, **wanted):
        (found,) = self.all(tag, **wanted)
        return found

    def within(self, element, tag):
        return [e for e in self.elements if e["tag"] == tag and any(x is element for x in e["inside"])]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A bill of three models with fast and slow thinking, and a sweep of all blocks of a model of 12 layers."""
    base = tmp_path_factory.mktemp("planted")
    write_bill(base / "bill", n=120)
    write_sweep_folder(base / "sweep", layers=12, sizes="0-6", n=60)
    path = report(base / "bill", sweep=base / "sweep", out=base / "all.html")
    return base, path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(planted):
    return Page(planted[1])


def cells(page, table):
    """A table's body as text without the intervals, and those."""
    found = []
    for row in page.within(page.one("table", id=table), "tr")[1:]:
        line = []
        for cell in [e for e in page.elements if e["tag"] in ("th", "td") and any(x is row for x in e["inside"])]:
            small = "".join(e["text"] for e in page.within(cell, "small"))
            line.append((cell["text"].removesuffix(small).strip(), small))
        found.append(line)
    return found


def test_landmarks_headings_and_names(page):
    assert page.one("html")["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "h1")] == [1, 1, 1, 1]
    assert page.one("nav")["aria-label"]
    sections = [e["id"] for e in page.all("section")]
    wanted = ["verdict", "domains", "interactions", "prose", "curves", "map", "thinking", "flips", "method"]
    assert sections == wanted
    assert [a["href"] for a in page.within(page.one("nav"), "a")] == [f"#{name}" for name in wanted]
    ids = [e["id"] for e in page.elements if "id" in e]
    assert len(ids) == len(set(ids))
    named = " ".join(e["aria-labelledby"] for e in page.elements if "aria-labelledby" in e).split()
    targets = [e["href"][1:] for e in page.all("a")]
    assert set(named) | set(targets) <= set(ids)
    levels = [int(e["tag"][1]) for e in page.elements if re.fullmatch("h[1-6]", e["tag"])]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_table_and_drawing_says_what_it_is(page):
    for table in page.all("table"):
        (caption,) = page.within(table, "caption")
        assert caption["text"].strip()
        head, *body = page.within(table, "tr")
        assert {th["scope"] for th in page.within(head, "th")} == {"col"}
        for row in body:
            assert [th["scope"] for th in page.within(row, "th")] == ["row"]
            assert len(page.within(row, "td")) + 1 == len(page.within(head, "th"))
        (box,) = [e for e in table["inside"] if e.get("class") == "scroll"]
        assert box["tabindex"] == "0"  # so that a keyboard can scroll it
    drawings = page.all("svg", class_="chart")
    assert len(drawings) == 2 + 3 + 3 + 9
    for svg in drawings:
        assert svg["role"] == "img"
        assert all(page.within(svg, tag)[0]["text"].strip() for tag in ("title", "desc"))
    assert all(svg.get("aria-hidden") == "true" for svg in page.all("svg", class_="key"))


def test_nothing_is_loaded_and_only_its_own_code_may_run(planted, page):
    text = planted[1]
    assert "http" not in re.sub(r'http-equiv="[^"]*"', "", text)
    assert not re.search(r"url\(|@import|\ssrc=\"|javascript:", text.replace("src=x", ""))
    for element in page.elements:
        assert "style" not in element
        assert not [key for key in element if key.startswith("on")]
        assert element["tag"] not in ("link", "iframe", "object", "embed", "form", "base", "img")
        assert element.get("href", "#").startswith("#")
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        content = page.one(tag)["text"]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert len(text) < 1_000_000


def test_hostile_questions_and_answers_are_only_text(page):
    assert len(page.all("script")) == 1
    shown = [e["text"] for e in page.all("p", class_="question")] + [e["text"] for e in page.all("dd")]
    assert any(HOSTILE in text for text in shown)
    assert any(HOSTILE in e["text"] for e in page.all("span", class_="text"))
    assert not any("49" in e["text"] for e in page.all("p", class_="question"))  # a template within a question


def test_the_domain_table_holds_the_bill(planted, page):
    document = json.loads((planted[0] / "bill" / "comparison.json").read_text())
    head = [e["text"] for e in page.within(page.within(page.one("table", id="domains-table"), "tr")[0], "th")]
    place = {name: head.index(name) for name in ("n", "Change points", "Change bits", "p (Holm)", "Lost", "Gained")}
    own = [row for row in document["rows"] if row["versus"]]
    shown = cells(page, "domains-table")
    assert len(shown) == len(own) == 6
    for row, line in zip(own, shown, strict=True):
        versus = row["versus"]
        assert line[0][0] == f"{row['domain']}, {row['protocol']}"
        assert line[place["n"]] == ("120", "")
        points, bits = versus["accuracy_difference"], versus["answer_nll_bits_difference"]
        assert line[place["Change points"]] == (signed(100 * points["estimate"], 1), bounds(points, 100, 1))
        assert line[place["Change bits"]] == (signed(bits["estimate"], 2), bounds(bits, 1, 2))
        assert line[place["p (Holm)"]][0] == p_value(versus["mcnemar_p_holm"])
        assert [line[place[name]][0] for name in ("Lost", "Gained")] == [str(versus["lost"]), str(versus["gained"])]


def test_thinking_squares_and_table_agree_with_the_counts(planted, page):
    rows = json.loads((planted[0] / "bill" / "comparison.json").read_text())["thinking"]
    shown = cells(page, "thinking-counts-table")
    for place, (row, line) in enumerate(zip(rows, shown, strict=True)):
        counts = [row["counts"][key] for key in ("both_right", "fast_only", "slow_only", "both_wrong")]
        assert [int(text) for text, _ in line[3:7]] == counts
        svg = page.one("svg", id=f"mosaic-{place}")
        areas = {
            e["data-series"]: float(e["width"]) * float(e["height"])
            for e in page.within(svg, "rect")
            if "data-series" in e
        }
        names = ("both-right", "fast-only", "slow-only", "both-wrong")
        for name, count in zip(names, counts, strict=True):
            assert areas.get(name, 0) == pytest.approx(147 * 147 * count / sum(counts), abs=30)


def test_examples_mark_right_before_and_after(page):
    groups = page.within(page.one("section", id="flips"), "details")
    assert len(groups) == 2 * (3 + 3)  # two models, three tasks at once and three after a chain of thought
    first = page.within(groups[0], "article")
    assert 1 <= len(first) <= 8
    lost = first[0]
    marks = {tag["text"]: tag["inside"][-1] for tag in page.within(lost, "b")}
    assert marks["right answer"] is marks["before"]
    assert marks["after"] is not marks["before"]
    assert "lost" in page.within(groups[0], "summary")[0]["text"]


@pytest.mark.parametrize(
    ("models", "limit", "state", "words"),
    [
        (("full", "pruned"), 0.05, "exceeded", "too costly"),
        (("full", "healed"), 0.3, "met", "within the limit"),
        (("full", "healed"), None, "open", "Verdict"),
    ],
)
def test_the_verdict_says_whether_the_limit_holds(tmp_path, models, limit, state, words):
    write_bill(tmp_path / "bill", n=200, models=models, limit=limit, thinking=False, tasks=[("math", "generation")])
    page = Page((tmp_path / "bill" / "report.html").read_text("utf-8"))
    section = page.one("section", id="verdict")
    assert section["class"] == f"verdict {state}"
    assert words in page.within(section, "h2")[0]["text"]
    assert "math" in page.within(section, "p")[0]["text"]
    left = {e["id"] for e in page.all("section")}
    assert not left & {"curves", "map", "thinking", "interactions"}  # what was not measured is not there


def test_few_questions_are_warned_of(tmp_path):
    write_bill(tmp_path / "bill", n=20, models=("full", "pruned"), thinking=False)
    page = Page((tmp_path / "bill" / "report.html").read_text("utf-8"))
    assert "20 questions" in page.one("ul", class_="warnings")["text"]


def test_tasks_of_lm_eval_stand_alone_and_names_are_only_text(planted):
    comparison = json.loads((planted[0] / "bill" / "comparison.json").read_text())
    for key in ("rows", "interactions", "thinking", "thinking_interactions", "prose"):
        comparison[key] = []
    label = '<b>cut & "sewn"</b>'
    comparison["models"] = [comparison["models"][0], {**comparison["models"][1], "label": label}]
    base = {"task": "arc", "metric": "acc", "filter": "none", "n": 8, "higher_is_better": True, "group": False}
    none = {"difference": None, "lost": None, "gained": None, "mcnemar_p": None}
    change = {"difference": {"estimate": -0.25, "low": -0.4, "high": -0.1}, "lost": 2, "gained": 0, "mcnemar_p": 0.5}
    comparison["tasks"] = [
        {**base, "model": "full", "value": 0.75, **none},
        {**base, "model": label, "value": 0.5, **change},
    ]
    comparison["verdict"] = None
    page = Page(render(comparison))
    assert [e["id"] for e in page.all("section")] == ["verdict", "tasks", "method"]
    shown = cells(page, "tasks-table")
    assert shown[1][2] == (label, "")
    assert shown[1][5] == ("−0.2500", "[−0.4000, −0.1000]")
    assert [e["text"] for e in page.all("td", class_="worse")] == ["−0.2500 [−0.4000, −0.1000]"]
    assert label in page.one("h1")["text"]


def test_adapters_after_a_cut_are_ringed(planted):
    document = json.loads((planted[0] / "sweep" / "sweep.json").read_text())
    cut = document["curves"][0]["points"][4]
    document["healed"] = [{"domain": "medical", "protocol": "choice", **cut, "variant": "4@3+lora"}]
    page = Page(render(None, document))
    rings = page.all("circle", class_="ring s0")
    assert len(rings) == 2  # in accuracy and in answer NLL
    assert sum(below == "healed" for line in cells(page, "sizes-table") for _, below in line) == 1


def test_a_sweep_of_another_model_is_named_as_such(planted, tmp_path):
    document = json.loads((planted[0] / "sweep" / "sweep.json").read_text())
    document["provenance"]["model"]["config_sha256"] = "cc" * 32
    comparison, _ = read_results(planted[0] / "bill")
    assert "whose weights are not" in render(comparison, document)
    assert "whose weights are not" not in planted[1]


def test_the_same_results_give_the_same_bytes(planted, tmp_path):
    again = report(planted[0] / "bill", sweep=planted[0] / "sweep", out=tmp_path / "again.html")
    assert again.read_text("utf-8") == planted[1]


def test_the_command_writes_a_report_of_a_sweep_alone(planted, tmp_path):
    folder = tmp_path / "sweep"
    shutil.copytree(planted[0] / "sweep", folder)
    runner = CliRunner()
    done = runner.invoke(app, ["report", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    path = folder / "report.html"
    assert json.loads(done.stdout) == {"report": str(path), "bytes": path.stat().st_size}
    page = Page(path.read_text("utf-8"))
    assert [e["id"] for e in page.all("section")] == ["verdict", "curves", "map", "method"]
    assert runner.invoke(app, ["report", str(folder)]).exit_code == 1
    assert runner.invoke(app, ["report", str(folder), "--overwrite"]).exit_code == 0


def test_wrong_folders_are_named(planted, tmp_path):
    with pytest.raises(RegrowthError, match=r"no comparison\.json and no sweep\.json"):
        report(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        report(planted[0] / "bill", sweep=tmp_path, out=tmp_path / "r.html")
    with pytest.raises(UsageError, match="--sweep"):
        report(planted[0] / "sweep", sweep=planted[0] / "sweep", out=tmp_path / "r.html")
    broken = tmp_path / "broken"
    shutil.copytree(planted[0] / "bill", broken)
    lines = (broken / "samples_pruned_regrowth_math_choice.jsonl").read_text("utf-8").split("\n")
    (broken / "samples_pruned_regrowth_math_choice.jsonl").write_text("\n".join(lines[:-2]), "utf-8")
    with pytest.raises(CheckpointError, match="other questions"):
        report(broken, out=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_dots_stand_where_their_numbers_say():
    dots = (Dot(0, "a", -10.0, -12.0, -8.0), Dot(1, "b", 5.0, 0.0, 10.0))
    page = Page(str(forest("f", "t", "d", "points", [Group("g", "", dots)])))
    found = {
        e["data-series"]: [float(x["x1"]) for x in page.within(e, "line")] for e in page.all("g") if "data-series" in e
    }
    zero = float(page.one("line", class_="zero")["x1"])
    centre = float(page.one("circle")["cx"])
    per_point = (centre - zero) / -10
    assert per_point > 0  # losses stand on the left
    assert found["a"][0] == pytest.approx(zero - 12 * per_point, abs=0.2)
    assert found["b"][0] == pytest.approx(zero, abs=0.2)
    assert max(found["b"]) == pytest.approx(zero + 10 * per_point, abs=0.2)


def test_curves_fall_where_values_fall_and_show_chance_and_healed():
    falling = Curve(0, "a", (Point(0, 0.6, 0.5, 0.7), Point(4, 0.3, 0.2, 0.4)), 0.25, (Point(4, 0.5),))
    page = Page(str(curves("c", "t", "d", across="layers", up="accuracy", lines=[falling], include=[0.0])))
    first, last, healed = (float(e["cy"]) for e in page.all("circle") if e["class"].startswith("mark"))
    assert first < healed < last  # y grows downwards
    chance = float(page.one("line", class_="chance")["y1"])
    assert last < chance
    assert page.all("path", class_="band s0")
    assert page.all("circle", class_="ring s0")


def test_a_block_map_has_a_cell_for_each_block_and_marks_the_cheapest():
    costs = {(1, 0): 8.0, (1, 1): 0.02, (1, 2): 0.4, (2, 0): 9.0, (2, 1): 0.5}
    page = Page(str(block_map("m", "t", "d", layers=4, costs=costs, unit="bits")))
    painted = [e["d"] for e in page.all("path") if "fill" in e]
    assert sum(d.count("M") for d in painted) == len(costs)
    best = [(float(e["cx"]), float(e["cy"])) for e in page.all("circle", class_="best")]
    assert len(best) == 2
    assert best[0][0] == best[1][0]  # start 1 for both sizes
    assert best[0][1] > best[1][1]  # larger blocks stand higher
    assert shade(LEAST / 2, 9.0) == shade(-1.0, 9.0) == 0
    assert shade(9.0, 9.0) == SHADES - 1
    assert 0 < shade(0.4, 9.0) < shade(4.0, 9.0) < SHADES - 1


def test_a_mosaic_without_one_column_is_whole():
    page = Page(str(mosaic("q", "t", "d", Counts(0, 0, 3, 7))))
    assert {e["data-series"] for e in page.all("rect")} == {"slow-only", "both-wrong"}


def test_ticks_are_round_and_told_apart():
    assert ticks(-31.6, 2.4) == [-30, -20, -10, 0]
    assert ticks(0.03, 0.31) == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
    assert ticks(0, 15, whole=True) == [0, 5, 10, 15]
    assert tick_words([-0.5, 0.0, 0.5]) == ["−0.5", "0.0", "0.5"]
    assert Scale(2.0, 2.0, 10, 20)(2.0) == 15


def test_numbers_are_written_as_people_write_them():
    assert signed(-0.04, 1) == "+0.0"  # no negative zero
    assert signed(-1.26, 1) == "−1.3"
    assert plain(0.5, 2) == "0.50"
    assert p_value(0.0) == "< 0.001"


@pytest.mark.parametrize(
    ("accuracy", "nll", "at_chance", "words"),
    [
        ((1, 2, 3), (1, 2, 3), [], "a lost more, by both measures"),
        ((1, 2, 3), (-1, 0, 1), [], "a lost more, by accuracy"),
        ((-1, 0, 1), (-3, -2, -1), [], "b lost more, by answer NLL"),
        ((1, 2, 3), (-3, -2, -1), [], "by accuracy a lost more, by answer NLL b"),
        ((1, 2, 3), (-1, 0, 1), ["b"], "cannot tell; b at chance before the cut"),
    ],
)
def test_interactions_in_words(accuracy, nll, at_chance, words):
    intervals = [dict(zip(("low", "estimate", "high"), each, strict=True)) for each in (accuracy, nll)]
    row = {"domains": ["a", "b"], "accuracy": intervals[0], "answer_nll_bits": intervals[1], "at_chance": at_chance}
    assert in_words(row) == words


def test_knowledge_and_reasoning_in_words():
    clear, open_ = ({"low": low, "estimate": 0.1, "high": 0.2} for low in (0.05, -0.1))
    assert thinking_in_words({"domains": ["a", "b"], "a_fast": open_, "delta": clear}) == "a lost more reasoning gain"
    both = {"domains": ["a", "b"], "a_fast": clear, "delta": clear}
    assert thinking_in_words(both) == "a lost more knowledge and more reasoning gain"
    assert thinking_in_words({**both, "a_fast": open_, "delta": open_}) == "cannot tell"


def browse(path, tmp_path):
    """The page as a browser leaves it, and what it wrote to its console."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    console = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    return done.stdout.decode(), console


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_opens_it_without_a_complaint_and_finds_all_series(planted, tmp_path):
    dom, console = browse(planted[0] / "all.html", tmp_path)
    assert console == []
    page = Page(dom)
    assert page.all("title")[0]["text"].startswith("What the cut costs")  # no hostile script ran
    series = {}
    for svg in page.all("svg", class_="chart"):
        series[svg["id"]] = [e["data-series"] for e in page.within(svg, "g") if "data-series" in e]
    others = [label for label in MODELS if label != "full"]
    assert series["accuracy-difference"] == series["answer-nll-bits-difference"] == others * 3
    assert series["accuracy-0"] == ["medical, choice", "math, choice"]
    assert series["answer-greedy-0"] == ["math, generation"]
    assert series["answer-nll-bits-0"] == ["medical, choice", "math, choice", "math, generation"]
    assert [series[f"map-{i}"] for i in range(3)] == [["medical, choice"], ["math, choice"], ["math, generation"]]
    assert len(page.within(page.one("svg", id="answer-nll-bits-0"), "circle")) == 7  # the first line's marks, sizes 0-6
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(planted[1].replace('"use strict";', '"use strict"; '), "utf-8")
    assert "script-src" in "".join(browse(spoilt, tmp_path)[1])  # so complaints would be seen, and the policy holds


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_tables_sort_by_a_click_both_ways_and_back(planted, tmp_path):
    clicks = """<script>
      const head = [...document.querySelectorAll("#domains-table thead th")];
      const place = head.findIndex((th) => th.textContent.startsWith("Change points"));
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
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", planted[1])
    copy.write_text(text.replace("</body>", clicks), "utf-8")
    dom, console = browse(copy, tmp_path)
    assert console == []
    found = json.loads(Page(dom).one("pre", id="found")["text"])
    first, up, down, back = ([float(x) for x in column] for column in found["found"])
    assert up == sorted(first)
    assert down == sorted(first, reverse=True)
    assert back == first != up
    assert found["states"] == ["ascending", "descending", "none"]
    assert found["spoken"][0] == "Sorted by Change points, ascending"
