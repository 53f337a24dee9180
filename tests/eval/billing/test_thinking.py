"""Fast and slow thinking: the paper's identities, prompts that differ in the thinking alone, and the bill of both."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.asking.harness import PlannedTask
from eval.asking.tasks import plan_tasks, template
from eval.billing.judging.policy import at_most
from eval.billing.judging.verdict import judge
from eval.billing.rows.counts import ThinkingCounts, count_pairs, thinking_scores
from eval.billing.rows.interactions import bill_thinking_interactions
from eval.billing.rows.thinking import bill_thinking
from eval.comparison import bill_runs
from eval.questions.schema import format_questions
from eval.runs.run import run
from eval.runs.samples import RunResult
from eval.settings import Settings
from prune.common.errors import RegrowthError, UsageError
from prune.common.thinking import MODES
from tests.support.commands import succeed
from tests.support.questions import plan_of, question_of, sample_of

COUNTS = st.builds(ThinkingCounts, *[st.integers(0, 300)] * 4).filter(lambda c: c.n > 0)


def _scores_of(counts, units=None):
    """What `thinking_scores` says of verdicts that give these counts."""
    sizes = (counts.both_right, counts.fast_only, counts.slow_only, counts.both_wrong)
    fast = [f for f, size in zip((True, True, False, False), sizes, strict=True) for _ in range(size)]
    slow = [s for s, size in zip((True, False, True, False), sizes, strict=True) for _ in range(size)]
    return thinking_scores(fast, slow, units or list(map(str, range(len(fast)))))


@given(COUNTS)
def test_the_identities_of_the_paper(counts):
    found = _scores_of(counts)
    n, right, wrong = counts.n, counts.both_right + counts.fast_only, counts.slow_only + counts.both_wrong
    assert found.delta.estimate == pytest.approx(found.a_slow.estimate - found.a_fast.estimate)  # eq. 5
    assert found.delta.estimate == pytest.approx(found.delta_c.estimate - found.delta_o.estimate)  # eq. 8
    corrected = found.r_c.estimate * wrong if found.r_c else 0.0
    spoiled = found.r_o.estimate * right if found.r_o else 0.0
    assert found.delta.estimate == pytest.approx((corrected - spoiled) / n)  # eq. 11
    assert (found.r_c is None) == (wrong == 0)
    assert (found.r_o is None) == (right == 0)


@given(COUNTS)
def test_every_interval_holds_its_estimate_and_stays_in_range(counts):
    found = _scores_of(counts)
    for name in ("a_fast", "a_slow", "delta_c", "delta_o", "r_c", "r_o"):
        interval = getattr(found, name)
        if interval is not None:
            assert 0 <= interval.low <= interval.estimate + 1e-12
            assert interval.estimate - 1e-12 <= interval.high <= 1
    assert -1 <= found.delta.low <= found.delta.high <= 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_counts_are_those_of_the_verdicts(pairs):
    kinds = ((True, True), (True, False), (False, True), (False, False))
    assert count_pairs(*zip(*pairs, strict=True)) == ThinkingCounts(*(pairs.count(kind) for kind in kinds))


def test_a_table_by_hand():
    found = _scores_of(ThinkingCounts(both_right=30, fast_only=10, slow_only=24, both_wrong=36))
    estimates = [interval.estimate for interval in vars(found).values()]
    assert estimates == pytest.approx([0.4, 0.54, 0.14, 0.24, 0.10, 0.4, 0.25])
    assert found.delta.low > 0  # 24 corrections against 10 spoils: the gain is beyond doubt


def test_questions_of_one_passage_widen_every_interval():
    counts = ThinkingCounts(both_right=30, fast_only=10, slow_only=24, both_wrong=36)
    units = [f"passage {place // 5}" for place in range(counts.n)]  # five alike in each
    for name in ("a_fast", "a_slow", "delta", "delta_c", "delta_o", "r_c", "r_o"):
        alone, shared = getattr(_scores_of(counts), name), getattr(_scores_of(counts, units), name)
        assert shared.estimate == alone.estimate
        assert shared.high - shared.low > 1.5 * (alone.high - alone.low)
    each = [str(place) for place in range(counts.n)]
    assert _scores_of(counts, each) == _scores_of(counts)


def _plan(mode, n=3, **changes):
    return plan_of([f"q{i}" for i in range(n)], mode, **changes)


def _prompt(plan, **chat):
    task = PlannedTask(plan)
    doc = task.eval_docs[0]
    return task.fewshot_context(doc, task.config.num_fewshot, gen_prefix=task.doc_to_prefix(doc), **chat)


@pytest.mark.parametrize("change", [{}, {"choices": None, "answer": "9 apples"}])
def test_both_modes_ask_the_same_and_differ_in_the_thinking(change):
    fast, slow = (_prompt(_plan(mode, **change)) for mode in MODES)
    assert fast.endswith("Answer:")
    assert slow.endswith("Reasoning:")
    for text in (fast, slow):
        assert text.count("Question:") == 3  # two worked examples, then the question
        assert "Which {{one}}?" in text
    first, second = ([line for line in text.split("\n") if line[:3] in ("Que", "A. ", "B. ")] for text in (fast, slow))
    assert first == second
    if not change:
        assert "A. left\nB. right\n" in fast


def test_with_a_chat_template_the_examples_are_turns_and_the_answer_is_begun():
    said = []

    def chat(messages, add_generation_prompt=True):
        said.append((messages, add_generation_prompt))
        return "x"

    _prompt(_plan("slow"), apply_chat_template=True, fewshot_as_multiturn=True, chat_template=chat)
    ((messages, opened),) = said
    assert [m["role"] for m in messages] == ["user", "assistant"] * 3
    assert messages[1]["content"].startswith("Reasoning: Three crates")
    assert messages[1]["content"].endswith("Answer: C")
    assert messages[-1] == {"role": "assistant", "content": "Reasoning:"}
    assert not opened


@pytest.mark.parametrize("protocol", ["choice", "generation"])
def test_the_worked_examples_are_the_same_and_rightly_answered(protocol):
    from eval.answers.parsing import parse_letter, parse_value

    fast, slow = (template(f"{protocol}-{mode}")["fewshot_config"]["samples"] for mode in MODES)
    assert [e["question"] for e in fast] == [e["question"] for e in slow]
    for quick, thought in zip(fast, slow, strict=True):
        if protocol == "choice":
            assert quick["options"] == thought["options"]
            choices = [line[3:] for line in quick["options"].split("\n")]
            assert parse_letter(thought["target"], choices) == "ABCD".index(quick["target"])
        else:
            assert parse_value(thought["target"]) == int(quick["target"])


def test_answers_are_judged_by_letter_text_and_number():
    choice = PlannedTask(_plan("slow"))
    number = PlannedTask(_plan("fast", choices=None, answer="1,200 apples"))
    judged = [choice.process_results(choice.eval_docs[0], [text]) for text in ("So it is right.\nAnswer: B", "A", "?")]
    judged += [number.process_results(number.eval_docs[0], [text]) for text in (" 1200", " 12", " many")]
    assert [(s["exact_match"], s["unparseable"]) for s in judged] == [(1.0, 0.0), (0.0, 0.0), (0.0, 1.0)] * 2


def test_shots_asked_for_leave_the_worked_examples_alone():
    task = PlannedTask(_plan("fast"))
    task.set_config(key="num_fewshot", value=5)
    assert task.config.num_fewshot == 2
    plain = PlannedTask(_plan(None))
    plain.set_config(key="num_fewshot", value=5)
    assert plain.config.num_fewshot == 5


def test_the_plan_adds_a_task_for_each_mode(tmp_path):
    (tmp_path / "d.jsonl").write_text(format_questions(_plan(None, 4).questions))
    plans = plan_tasks(Settings.of(data=tmp_path, domains="d", limit=3, thinking=("slow", "fast"), slow_tokens=99))
    assert [p.name for p in plans] == ["regrowth_d_choice", "regrowth_d_choice-fast", "regrowth_d_choice-slow"]
    assert len({p.questions for p in plans}) == 1
    assert [p.requests for p in plans] == [6, 3, 3]
    assert plans[2].config()["generation_kwargs"]["max_gen_toks"] == 99
    assert plans[1].config()["generation_kwargs"]["max_gen_toks"] == 16


def _run(label, fast, slow, **changes):
    """A run with these verdicts; `changes` hold for the answers after slow thinking."""
    plans = tuple(_plan(mode, len(fast)) for mode in MODES)
    samples = []
    for plan, verdicts in zip(plans, (fast, slow), strict=True):
        fields = {"answer_nll_bits": None, "response": "B", "thinking": plan.thinking}
        fields |= changes if plan.thinking == "slow" else {}
        for question, right in zip(plan.questions, verdicts, strict=True):
            samples.append(sample_of(question.id, right, **{"prompt_hash": f"{plan.name}:{question.id}", **fields}))
    return RunResult(label, {"model": label}, plans, tuple(samples), {}, {}, {}, 0.0, 0, 0)


def test_the_bill_of_two_models():
    full = _run("full", [True] * 30 + [False] * 70, [True] * 20 + [False] * 10 + [True] * 40 + [False] * 30)
    cut = _run("cut", [True] * 30 + [False] * 70, [False] * 100, parsed=False, cut=True)
    first, second = bill_thinking([full, cut])
    assert (first.model, second.model) == ("full", "cut")
    assert first.counts == ThinkingCounts(20, 10, 40, 30)
    assert first.versus is None
    assert (second.unparseable_fast, second.unparseable_slow, second.cut_slow) == (0.0, 1.0, 1.0)
    assert second.r_o.estimate == 1.0
    assert second.versus.a_fast.estimate == 0.0
    assert second.versus.a_slow.estimate == pytest.approx(-0.6)
    assert second.versus.delta.estimate == pytest.approx(-0.6)  # what was lost is the gain of reasoning alone
    assert second.versus.delta.high < 0 < second.versus.a_fast.high
    assert second.delta.estimate == pytest.approx(-0.3)
    assert second.counts == ThinkingCounts(0, 30, 0, 70)
    assert bill_runs([full, cut]).rows == ()  # without plain tasks there is no plain bill


def test_a_lost_chain_of_thought_is_too_costly():
    full = _run("full", [True] * 40 + [False] * 60, [True] * 90 + [False] * 10)
    cut = _run("cut", [True] * 40 + [False] * 60, [False] * 100, parsed=False)
    found = judge((), at_most(5), thinking=bill_thinking([full, cut]))
    assert (found.decision, found.worst.measure) == ("NO-GO", "a_slow")
    assert "cut on d choice (slow thinking) loses 90.0 points" in found.sentence
    assert [(one.measure, one.at_chance) for one in found.losses] == [("a_slow", False), ("a_fast", True)]
    assert bill_runs([full, cut], at_most(5)).verdict == found


def test_what_reasoning_lost_in_one_domain_against_another():
    """Cut: in `d` it loses what thinking added, in `e` what it knew at once; the interaction tells which is which."""
    known, thought = [True] * 40 + [False] * 60, [True] * 40 + [False] * 20 + [True] * 40
    full = _two_domains("full", (known, thought), (known, thought))
    cut = _two_domains("cut", (known, known), ([False] * 100, thought))
    (found,) = bill_thinking_interactions(bill_thinking([full, cut]), [full, cut])
    assert (found.model, found.protocol, found.domains) == ("cut", "choice", ("d", "e"))
    assert found.a_fast.estimate == pytest.approx(0.0 - 0.4)  # knowledge: lost in e alone
    assert found.a_slow.estimate == pytest.approx(0.4 - 0.0)  # after thinking: lost in d alone
    assert found.delta.estimate == pytest.approx(0.4 - -0.4)
    assert found.a_fast.high < 0 < found.a_slow.low
    assert found.delta.low > 0.4


def _two_domains(label, first, second):
    one, other = _run(label, *first), _run(label, *second)
    tasks = tuple(replace(t, domain="e") for t in other.tasks)
    samples = tuple(replace(s, domain="e", id=f"e{s.id}") for s in other.samples)
    return replace(one, tasks=one.tasks + tasks, samples=one.samples + samples)


def test_what_is_not_paired_is_refused():
    full = _run("full", [True] * 4, [True] * 4)
    with pytest.raises(RegrowthError, match="not paired: d, choice, other"):
        bill_thinking([full, _run("other", [True] * 4, [True] * 4, prompt_hash="other words")])
    halves = replace(full, samples=full.samples[:7])
    with pytest.raises(RegrowthError, match="not asked the same questions"):
        bill_thinking([halves])


def test_a_model_thinks_fast_and_slow_end_to_end(tiny_llama, tmp_path):
    """A random model writes noise: little of it parses, chains reach their limit, and all of it is counted."""
    rows = [question_of(id=f"q{i}", question=f"Which {i}?") for i in range(3)]
    rows += [question_of(id=f"n{i}", choices=None, answer=f"{i}") for i in range(3)]
    (tmp_path / "d.jsonl").write_text(format_questions(rows))
    with pytest.raises(UsageError, match=r"--slow-tokens 500 leaves no room .* context of 512 tokens; use 448 at most"):
        run(tiny_llama, data=tmp_path, domains="d", thinking="slow", slow_tokens=500, show_progress=False)
    found = run(tiny_llama, data=tmp_path, domains="d", thinking="fast,slow", slow_tokens=24, show_progress=False)
    tasks = [t.name for t in found.tasks]
    assert tasks == [f"regrowth_d_{p}{m}" for p in ("choice", "generation") for m in ("", "-fast", "-slow")]
    for row in bill_thinking([found]):
        assert row.n == 3
        slow = [s for s in found.samples if s.thinking == "slow" and s.protocol == row.protocol]
        assert row.unparseable_slow == sum(not s.parsed for s in slow) / 3
        assert row.cut_slow == 1.0
        assert all(s.answer_nll_bits is None and isinstance(s.response, str) for s in slow)
        assert not any(s.correct and not s.parsed for s in slow)


def test_compare_shows_thinking_in_every_form(tiny_llama, tmp_path):
    for domain in ("d", "e"):
        rows = [question_of(id=f"{domain}{i}", question=f"Which {domain} {i}?") for i in range(3)]
        (tmp_path / f"{domain}.jsonl").write_text(format_questions(rows))
    words = ["compare", tiny_llama, tiny_llama, "--data", tmp_path, "--domains", "d,e", "--thinking", "fast,slow"]
    words += ["--slow-tokens", 16, "--labels", "full,same", "--out", tmp_path / "bill", "--no-cache", "--no-gains"]
    assert "Fast and slow thinking" in succeed("evaluate", *words).stdout
    document = json.loads((tmp_path / "bill" / "comparison.json").read_text())
    assert [(r["domain"], r["model"]) for r in document["thinking"]] == [(d, m) for d in "de" for m in ("full", "same")]
    same = document["thinking"][1]
    assert same["versus"]["delta"]["estimate"] == 0.0
    (interaction,) = document["thinking_interactions"]
    assert interaction["domains"] == ["d", "e"]
    assert interaction["delta"]["estimate"] == 0.0
    text = (tmp_path / "bill" / "comparison.md").read_text()
    assert "| d choice | 3 (few) | 50 | same |" in text
    assert "Knowledge and reasoning lost, one domain against another" in text
    names = {path.name for path in (tmp_path / "bill").iterdir()}
    assert {"samples_full_regrowth_d_choice-fast.jsonl", "samples_same_regrowth_e_choice-slow.jsonl"} <= names
