"""The report: its structure, its numbers, what it may load (nothing), hostile text, and a browser that opens it."""

import base64
import hashlib
import itertools
import json
import re
import shutil

import pytest

from eval.reports.page import render, report
from eval.reports.sections.verdict import _judged
from eval.reports.wording.interactions import in_words, thinking_in_words
from eval.reports.wording.text import bounds, p_value
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.common.screen.numbers import plain, signed
from tests.support.commands import check_refused, run, succeed
from tests.support.report_page import Page, cells
from tests.support.reports import HOSTILE, MODELS, write_bill, write_sweep_folder


def test_landmarks_headings_and_names(page):
    assert page.one("html")["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "h1")] == [1, 1, 1, 1]
    assert page.one("nav")["aria-label"]
    sections = [e["id"] for e in page.all("section")]
    wanted = ["verdict", "gains", "domains", "interactions", "prose", "curves", "map", "thinking", "limits", "flips"]
    wanted.append("method")
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
    text = (planted / "all.html").read_text("utf-8")
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


def test_the_domain_table_holds_the_bill(comparison, page):
    head = [e["text"] for e in page.within(page.within(page.one("table", id="domains-table"), "tr")[0], "th")]
    shown = cells(page, "domains-table")
    assert len(shown) == len(comparison["rows"]) == 9
    for row, line in zip(comparison["rows"], shown, strict=True):
        named, versus = dict(zip(head, line, strict=True)), row["versus"]
        assert named["Questions"][0] == f"{row['domain']} {row['protocol']}"
        assert (named["Model"], named["n"]) == ((row["model"], ""), ("120", ""))
        assert named["Plain, %"] == (plain(100 * row["accuracy_raw"], 0), "")
        if versus is None:
            assert named["Δ accuracy, points"] == named["Lost"] == ("", "")
            continue
        points, bits = versus["accuracy_difference"], versus["answer_nll_bits_difference"]
        kept = versus["retained_interval"]
        assert named["Δ accuracy, points"] == (signed(100 * points["estimate"], 1), bounds(points, 100, 1))
        assert named["Δ NLL, bits"] == (signed(bits["estimate"], 2), bounds(bits, 1, 2))
        assert named["p"][0] == p_value(versus["mcnemar_p_holm"])
        assert kept["low"] < kept["estimate"] < kept["high"]
        assert named["Kept, %"] == (plain(100 * kept["estimate"], 0), bounds(kept, 100, 0, sign=False))
        assert [named[name][0] for name in ("Lost", "Gained")] == [str(versus["lost"]), str(versus["gained"])]


def test_thinking_squares_and_table_agree_with_the_counts(comparison, page):
    rows = comparison["thinking"]
    shown = cells(page, "thinking-counts-table")
    for place, (row, line) in enumerate(zip(rows, shown, strict=True)):
        counts = [row["counts"][key] for key in ("both_right", "fast_only", "slow_only", "both_wrong")]
        assert [int(text) for text, _ in line[4:8]] == counts
        svg = page.one("svg", id=f"mosaic-{place}")
        tiles = [e for e in page.within(svg, "rect") if "data-series" in e]
        areas = {e["data-series"]: float(e["width"]) * float(e["height"]) for e in tiles}
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
        (("full", "pruned"), 0.05, "no-go", "NO-GO"),
        (("full", "healed"), 0.3, "go", "GO"),
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


def test_the_verdict_begins_as_sentences_do(comparison):
    headline = Page(render(comparison)).one("p", class_="headline")["text"]
    assert headline.startswith("On math generation (slow thinking), pruned loses ")
    sentence = "INCONCLUSIVE: the full model is above chance in no domain"
    comparison["verdict"] |= {"decision": "INCONCLUSIVE", "sentence": sentence}
    headline = Page(render(comparison)).one("p", class_="headline")["text"]
    assert headline == "The full model is above chance in no domain."


def tiles(comparison):
    """Label, value and note of each tile of the first model."""
    page = Page(render(comparison))
    first = page.within(page.all("dl", class_="tiles")[0], "div")
    return [tuple(page.within(tile, tag)[0]["text"] for tag in ("dt", "strong", "small")) for tile in first]


def test_tiles_show_the_worst_of_what_can_be_lost(comparison):
    rows = [row for row in comparison["rows"] if row["model"] == "pruned"]
    assert tiles(comparison)[0][2] == "math generation"
    rows[2]["versus"]["full_above_chance"] = False
    assert tiles(comparison)[0][2] == "math choice"
    for row in rows:
        row["versus"]["full_above_chance"] = False
    assert tiles(comparison)[0][1:] == ("–", "the full model is at chance")
    (prose,) = [row for row in comparison["prose"] if row["model"] == "pruned"]
    worse = {end: value + 1 for end, value in prose["difference"].items()}
    comparison["prose"].append({**prose, "text": "news", "difference": worse})
    assert tiles(comparison)[2] == ("Prose loss, worst text, nats per token", signed(worse["estimate"], 3), "news")


def test_a_sweep_of_few_questions_says_so_at_the_top_and_in_its_table(tmp_path):
    document = write_sweep_folder(tmp_path / "sweep", layers=8, sizes="0-3", n=20, tasks=[("math", "choice")])
    page = Page(render(None, document))
    assert "20 questions; below 30" in page.one("ul", class_="warnings")["text"]
    assert [line[1] for line in cells(page, "sizes-table")] == [("20", "few")] * 4


@pytest.mark.parametrize(("low", "words"), [(0.1, "math choice suffers most"), (-0.1, "beyond doubt in no domain")])
def test_a_sweep_names_no_victim_that_it_cannot_tell(tmp_path, low, words):
    document = write_sweep_folder(tmp_path / "sweep", layers=8, sizes="0-3", n=20, tasks=[("math", "choice")])
    document["curves"][0]["points"][-1]["answer_nll_bits_difference"] = {"estimate": 0.2, "low": low, "high": 0.5}
    assert words in Page(render(None, document)).one("p", class_="headline")["text"]


def test_a_run_whose_answers_were_known_says_so(page):
    time = next(e["text"] for e in page.all("div") if e["text"].startswith("time"))
    assert "full 85 s for 0 requests (0 tokens), 1,200 known from before" in time
    assert "pruned 85 s for 1,200 requests (58,108 tokens);" in time
    assert "pruned: the start of 2 requests was cut" in page.one("ul", class_="warnings")["text"]


def test_tasks_of_lm_eval_stand_alone_and_names_are_only_text(comparison):
    for key in ("rows", "interactions", "thinking", "thinking_interactions", "prose"):
        comparison[key] = []
    comparison["gains"] = None
    label = '<b>cut & "sewn"</b>'
    comparison["models"] = [comparison["models"][0], {**comparison["models"][1], "label": label}]
    base = {"task": "arc", "metric": "acc", "filter": "none", "n": 8, "higher_is_better": True, "group": False}
    none = {"difference": None, "lost": None, "gained": None, "mcnemar_p": None}
    change = {"difference": {"estimate": -0.25, "low": -0.4, "high": -0.1}, "lost": 2, "gained": 0, "mcnemar_p": 0.5}
    comparison["tasks"] = [
        {**base, "model": "full", "value": 0.75, **none},
        {**base, "model": label, "value": 0.5, **change},
    ]
    comparison["verdict"] = comparison["gains"] = None
    page = Page(render(comparison))
    assert [e["id"] for e in page.all("section")] == ["verdict", "tasks", "method"]
    shown = cells(page, "tasks-table")
    assert shown[1][:2] == [("arc, acc", ""), (label, "")]
    assert shown[1][4] == ("−0.2500", "[−0.4000, −0.1000]")
    assert [e["text"] for e in page.all("td", class_="worse")] == ["−0.2500 [−0.4000, −0.1000]"]
    assert label in page.one("h1")["text"]


def test_the_curves_show_the_change_of_nll_with_its_paired_band(swept, page):
    svg = page.one("svg", id="answer-nll-bits-difference-0")
    last = swept["curves"][1]["points"][-1]["answer_nll_bits_difference"]
    marks = page.within(svg, "rect")  # of the second series
    zero = float(next(e for e in page.within(svg, "line") if e.get("class") == "zero")["y1"])
    first, *_, end = (float(e["y"]) + float(e["height"]) / 2 for e in marks)
    assert first == pytest.approx(zero, abs=0.2)  # the full model has no change, and is sure of it
    band = next(e for e in page.within(svg, "path") if e.get("class") == "band s1")
    upper = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", band["d"])][6]  # at the largest size
    per_bit = (zero - end) / last["estimate"]
    assert zero - upper == pytest.approx(per_bit * last["high"], abs=0.3)
    assert "chance" in page.within(page.one("section", id="curves"), "ul")[-1]["text"]
    assert not any("chance" in e["text"] for e in page.within(page.one("svg", id="accuracy-0"), "text"))


def test_adapters_after_a_cut_are_ringed(swept):
    cut = swept["curves"][0]["points"][4]
    swept["healed"] = [{"domain": "medical", "protocol": "choice", **cut, "variant": "4@3+lora"}]
    page = Page(render(None, swept))
    rings = page.all("circle", class_="ring s0")
    assert len(rings) == 2  # in accuracy and in answer NLL
    assert sum(below == "healed" for line in cells(page, "sizes-table") for _, below in line) == 1


def test_a_sweep_of_another_model_is_named_as_such(comparison, swept):
    assert "whose weights are not" not in render(comparison, swept)
    swept["provenance"]["model"]["config_sha256"] = "cc" * 32
    assert "whose weights are not" in render(comparison, swept)


def test_no_knowledge_is_said_to_be_lost_where_answers_were_not_parsed(comparison):
    clear = {"estimate": -0.3, "low": -0.5, "high": -0.1}
    for row in comparison["thinking_interactions"]:
        row["a_fast"] = clear
    claim = "math lost more knowledge"
    assert claim in Page(render(comparison)).one("section", id="thinking")["text"]
    for row in comparison["thinking"]:
        if (row["domain"], row["model"]) == ("math", "pruned"):
            row["unparseable_fast"] = 0.94
            row["versus"]["a_fast"] = clear
    page = Page(render(comparison))
    told = {line[1][0]: line[-1][0] for line in cells(page, "thinking-interactions-table")}
    assert "lost more knowledge" not in told["pruned"]
    assert "many answers not parsed in math" in told["pruned"]
    assert claim in told["healed"]
    assert not any("pruned" in e["text"] and claim in e["text"] for e in page.all("li"))
    lines = [line for line in cells(page, "thinking-table") if line[3][0] == "pruned"]
    assert [any(text.endswith("?") for cell in line for text in cell) for line in lines] == [False, True, True]
    marked = [e["text"] for e in page.within(page.one("table", id="thinking-table"), "td") if e.get("class") == "worse"]
    assert not any(bounds(clear, 100, 1) in text for text in marked)


def test_the_same_results_give_the_same_bytes(planted, tmp_path):
    again = report(planted / "bill", sweep=planted / "sweep", out=tmp_path / "again.html")
    assert again.read_text("utf-8") == (planted / "all.html").read_text("utf-8")


def test_the_command_writes_a_report_of_a_sweep_alone(planted, tmp_path):
    folder = shutil.copytree(planted / "sweep", tmp_path / "sweep")
    path = folder / "report.html"
    assert json.loads(succeed("evaluate", "report", folder, "--json").stdout) == {
        "report": str(path),
        "bytes": path.stat().st_size,
    }
    page = Page(path.read_text("utf-8"))
    assert [e["id"] for e in page.all("section")] == ["verdict", "curves", "map", "method"]
    check_refused(run("evaluate", "report", folder), 1, "already exists")
    succeed("evaluate", "report", folder, "--overwrite")


def test_wrong_folders_are_named(planted, tmp_path):
    with pytest.raises(RegrowthError, match=r"no comparison\.json and no sweep\.json"):
        report(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        report(planted / "bill", sweep=tmp_path, out=tmp_path / "r.html")
    with pytest.raises(UsageError, match="--sweep"):
        report(planted / "sweep", sweep=planted / "sweep", out=tmp_path / "r.html")
    broken = shutil.copytree(planted / "bill", tmp_path / "broken")
    samples = broken / "samples_pruned_regrowth_math_choice.jsonl"
    samples.write_text("\n".join(samples.read_text("utf-8").split("\n")[:-2]), "utf-8")
    with pytest.raises(CheckpointError, match="other questions"):
        report(broken, out=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda row: 5, "line 2 is no object"),
        (lambda row: {name: value for name, value in row.items() if name != "id"}, "sample 2 .* it has no id"),
        (lambda row: {name: value for name, value in row.items() if name != "response"}, "sample 2 .* no response"),
        (lambda row: row | {"doc": 5}, "sample 2 .* its doc is no question"),
        (lambda row: row | {"doc": row["doc"] | {"answer": None}}, "sample 2 .* its doc is no question"),
        (lambda row: row | {"id": ["x"]}, "sample 2 .* its id is no text"),
    ],
)
def test_a_damaged_sample_is_named(planted, tmp_path, spoil, words):
    broken = shutil.copytree(planted / "bill", tmp_path / "broken")
    samples = broken / "samples_pruned_regrowth_math_choice.jsonl"
    lines = samples.read_text("utf-8").split("\n")
    lines[1] = json.dumps(spoil(json.loads(lines[1])))
    samples.write_text("\n".join(lines), "utf-8")
    with pytest.raises(CheckpointError, match=f"^{samples}.*{words}"):
        report(broken, out=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


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
    row = {"domains": ["a", "b"], "accuracy": intervals[0], "at_chance": at_chance}
    row["answer_nll_bits_per_byte"] = intervals[1]
    assert in_words(row) == words


@pytest.mark.parametrize(
    ("a_fast", "delta", "words"),
    [
        (-0.1, 0.05, "a lost more reasoning gain"),
        (0.05, 0.05, "a lost more knowledge and more reasoning gain"),
        (-0.1, -0.1, "cannot tell"),
    ],
)
def test_knowledge_and_reasoning_in_words(a_fast, delta, words):
    intervals = [{"low": low, "estimate": 0.1, "high": 0.2} for low in (a_fast, delta)]
    row = {"domains": ["a", "b"], "model": "cut", "protocol": "choice", "a_fast": intervals[0], "delta": intervals[1]}
    assert thinking_in_words(row, [], "full") == words


def test_the_noise_floor_is_a_grey_band_and_a_word(tmp_path):
    """`same` answers as the full model does: all its changes are noise, in tables, figures and words."""
    tasks = [("math", "choice"), ("math", "generation")]
    MODELS["same"] = 0.0
    try:
        document = write_bill(tmp_path / "bill", n=200, models=("full", "pruned", "same"), tasks=tasks, noise=True)
    finally:
        del MODELS["same"]
    floors = {row["protocol"]: row for row in document["noise"]["rows"]}
    swept = write_sweep_folder(tmp_path / "sweep", tasks=tasks, sizes="0-4")
    page = Page(render(document, swept))
    bands = [e for e in page.all("rect", class_="noise") if "x" in e]
    marks = {row["protocol"]: row["versus"]["noise"] for row in document["rows"] if row["model"] == "pruned"}
    assert "accuracy_difference" not in marks["generation"]
    charts = {chart["id"]: page.within(chart, "rect") for chart in page.all("svg") if "id" in chart}
    drawn = {name: [rect for rect in found if rect.get("class") == "noise"] for name, found in charts.items()}
    assert {name for name, found in drawn.items() if found} == {
        "accuracy-difference", "answer-nll-bits-difference", "accuracy-0", "answer-nll-bits-difference-0",
    }  # fmt: skip
    widths = [float(rect["width"]) for rect in drawn["accuracy-difference"]]
    halves = [floors[protocol]["accuracy"]["band"] for protocol in ("choice", "generation")]
    assert widths[0] / widths[1] == pytest.approx(halves[0] / halves[1], rel=0.02)
    assert len(bands) > 4
    text = (tmp_path / "bill" / "comparison.md").read_text()
    assert "Noise floor: full was asked again in batch size 8 after 16." in text
    assert "### The full model asked twice" in text
    assert "] noise" in text
    assert "What lies within a grey band is noise." in (tmp_path / "bill" / "report.html").read_text()


def test_a_policy_is_told_limit_by_limit(tmp_path):
    document = write_bill(tmp_path / "bill", n=200, limit=0.05, thinking=False)
    page = Page((tmp_path / "bill" / "report.html").read_text("utf-8"))
    section = page.one("section", id="limits")
    told = [e["text"] for e in page.within(section, "li")]
    assert told == [f"{one['model']}: {one['sentence']}." for one in document["verdict"]["models"]]
    assert len(page.within(page.within(section, "tbody")[0], "tr")) == len(document["verdict"]["losses"])
    text = (tmp_path / "bill" / "comparison.md").read_text()
    assert "### Limits, and what was measured" in text
    assert "| math generation | accuracy, points | pruned | must | 5 |" in text
    assert "- healed: " in text


@pytest.mark.parametrize(
    "told", ["loses 7.0 points [2.0, 12.0], and 5 are allowed", "changes by +1.0 points [−9.0, +9.0]"]
)
def test_the_heading_starts_with_the_task(told):
    verdict = {"decision": "INCONCLUSIVE", "worst": {"model": "Cut"}}
    sentence = f"INCONCLUSIVE: Cut on math choice {told}"
    assert _judged({**verdict, "sentence": sentence}) == f"On math choice, Cut {told}."
