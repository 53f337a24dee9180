"""The frontier: Pareto points, the most that a policy lets go, and the command on planted comparisons."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.billing.artefacts import Comparison
from eval.billing.frontier import Decision, Frontier, most_in_words, most_within, point_of, unbeaten
from eval.gains.record import GainRatios, Gains, ModelGains, Spread
from eval.limits.frontier import make_frontier
from prune.common.errors import RegrowthError, UsageError
from tests.support.commands import check_refused, run, succeed
from tests.support.reports import write_bill

SHARES = {"full": (1.0, 1.0), "pruned": (0.75, 1.3), "healed": (0.8, 1.25)}  # of its bytes and its speed


def spread(value):
    return Spread(median=value, low=0.9 * value, high=1.1 * value)


def gains_of(label, weight=1.0, speed=1.0, ratio=True):
    size = round(400 * 2**20 * weight)
    ratios = GainRatios(
        parameters=weight, weight_bytes=weight, kv_bytes_per_token=weight, peak_memory_bytes=None,
        prefill_tokens_per_second=spread(speed), decode_tokens_per_second=spread(speed),
    )  # fmt: skip
    return ModelGains(
        model=label, parameters=size // 4, weight_bytes=size, kv_bytes_per_token=1000 * weight, peak_memory_bytes=None,
        prefill_tokens_per_second=spread(100 * speed), decode_tokens_per_second=spread(20 * speed),
        ratio=ratios if ratio else None,
    )  # fmt: skip


def with_gains(folder, shares):
    """Put planted gains into a comparison."""
    models = tuple(gains_of(label, *share, ratio=label != "full") for label, share in shares.items())
    gains = Gains(
        engine="transformers", device="cpu", peak="of the process", context=128, new_tokens=32, sequences=1, rounds=3,
        models=models, notes=(),
    )  # fmt: skip
    path = folder / "comparison.json"
    Comparison.read(path).model_copy(update={"gains": gains}).write(path, overwrite=True)
    return folder


@pytest.fixture(scope="module")
def bill(tmp_path_factory):
    out = tmp_path_factory.mktemp("frontier") / "bill"
    write_bill(out, n=400, thinking=False)
    return with_gains(out, SHARES)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_pareto_points_are_those_that_no_other_beats(points):
    marks = unbeaten(points)
    assert any(marks)
    for point, best in zip(points, marks, strict=True):
        better = [p for p in points if p != point and p[0] <= point[0] and p[1] <= point[1]]
        assert best == (not better)


def test_twins_are_both_pareto_points_and_a_gain_of_the_full_model_can_beat_it():
    assert unbeaten([(3, 0), (3, 0), (2, 1), (2, 2)]) == [True, True, True, False]
    assert unbeaten([(3, 0.0), (2, -0.1)]) == [False, True]


def point(label, weight, decision=None, dropped=None):
    verdict = None if decision is None else Decision(decision=decision, sentence=f"{decision}: because of {label}")
    return point_of(label, gains_of(label, weight, 1 / weight, ratio=label != "full"), dropped, verdict)


def test_the_most_that_may_go_is_the_smallest_that_passes():
    points = [
        point("full", 1.0), point("a", 0.9, "GO", (3,)), point("b", 0.8, "GO", (3, 4, 7)),
        point("c", 0.7, "INCONCLUSIVE"), point("d", 0.6, "NO-GO"), point("e", 0.5, "NO-GO"),
    ]  # fmt: skip
    assert most_within(points).model == "b"
    words = most_in_words(points, "--max-loss 5%")
    assert "within --max-loss 5% is b, 3 layers less (3-4 and 7): 320 MiB" in words
    assert "20 % less" in words
    assert "By it because of b." in words  # what was not judged stands there too
    assert "1.25 times the speed" in words
    assert "These questions cannot decide on c: because of c." in words
    assert "Beyond it is d (and 1 more): because of d." in words


def test_where_none_passes_nothing_may_go_and_without_a_policy_nothing_is_said():
    points = [point("full", 1.0), point("a", 0.9, "NO-GO")]
    assert most_within(points) is None
    assert most_in_words(points, "p.yaml").startswith("No cut passes p.yaml, so nothing may go")
    assert most_in_words([point("full", 1.0), point("a", 0.9)], None).startswith("No policy was given")


def test_the_frontier_of_a_comparison(bill, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("must: {answer_bits_per_byte: 9}\n")
    frontier = make_frontier([bill], out=tmp_path / "out", policy=policy)
    assert Frontier.read(tmp_path / "out" / "frontier.json") == frontier
    assert [p.model for p in frontier.points] == ["full", "healed", "pruned"]  # by falling bytes
    assert frontier.point("pruned").verdict.decision == "GO"
    assert frontier.most == "pruned"
    losses = {(one.domain, one.measure, one.model): one for one in frontier.losses if one.protocol == "choice"}
    full, pruned, healed = (losses["math", "accuracy", name] for name in ("full", "pruned", "healed"))
    assert full.loss is None
    assert pruned.loss.estimate > healed.loss.estimate > 0
    assert full.best_of_bytes
    assert full.best_of_speed
    bill_rows = Comparison.read(bill / "comparison.json").rows
    row = next(r for r in bill_rows if (r.domain, r.protocol, r.model) == ("math", "choice", "pruned"))
    assert pruned.loss == row.versus.accuracy_difference.negated
    text = (tmp_path / "out" / "frontier.md").read_text()
    assert frontier.sentence in text
    assert "| bytes, speed |" in text
    figure = (tmp_path / "out" / "frontier.svg").read_text()
    for words in (
        "weights, MiB",
        "speed of writing, times the full model",
        "Accuracy lost, by bytes",
        'class="ring s0"',
    ):
        assert words in figure, words


def test_a_loss_within_the_noise_of_its_comparison_is_called_noise(tmp_path):
    write_bill(tmp_path / "bill", n=400, thinking=False, noise=True)
    frontier = make_frontier([with_gains(tmp_path / "bill", SHARES)], out=tmp_path / "out")
    comparison = Comparison.read(tmp_path / "bill" / "comparison.json")
    floors = {(row.domain, row.protocol): row for row in comparison.noise.rows}
    changes = {(row.domain, row.protocol, row.model): row.versus for row in comparison.rows}
    names = {"accuracy": "accuracy", "answer_bits_per_byte": "answer_nll_bits_per_byte"}
    for one in frontier.losses:
        floor, versus = floors[one.domain, one.protocol], changes[one.domain, one.protocol, one.model]
        assert one.noise == (None if one.model == "full" else getattr(floor, names[one.measure]).band)
        assert one.is_noise == (versus is not None and f"{names[one.measure]}_difference" in versus.noise)
    assert {one.is_noise for one in frontier.losses} == {True, False}
    marked = [line for line in (tmp_path / "out" / "frontier.md").read_text().splitlines() if "] noise |" in line]
    assert len(marked) == len({(o.domain, o.protocol, o.model) for o in frontier.losses if o.is_noise})
    assert (tmp_path / "out" / "frontier.svg").read_text().count('class="noise"') >= 4  # both measures, by both axes


def test_without_a_second_asking_nothing_is_called_noise(bill, tmp_path):
    frontier = make_frontier([bill], out=tmp_path / "out")
    assert {(one.noise, one.is_noise) for one in frontier.losses} == {(None, False)}
    assert 'class="noise"' not in (tmp_path / "out" / "frontier.svg").read_text()


def test_several_comparisons_of_one_full_model_are_one_frontier(tmp_path):
    for name, models in (("one", ("full", "pruned")), ("two", ("full", "healed"))):
        write_bill(tmp_path / name, n=60, models=models, thinking=False)
        with_gains(tmp_path / name, {label: SHARES[label] for label in models})
    frontier = make_frontier([tmp_path / "one", tmp_path / "two"], out=tmp_path / "out")
    assert [p.model for p in frontier.points] == ["full", "healed", "pruned"]
    assert [one.model for one in frontier.losses].count("full") == 2 * 3  # once for each task and measure
    with pytest.raises(Exception, match="two models are called pruned"):
        make_frontier([tmp_path / "one", tmp_path / "one"], out=tmp_path / "again")


def test_dropped_layers_are_those_that_the_comparison_saw(bill, tmp_path):
    folder = tmp_path / "bill"
    shutil.copytree(bill, folder)
    path = folder / "comparison.json"
    read = Comparison.read(path)
    seen = [model.model_copy(update={"dropped": (3, 4)}) for model in read.models[1:]]
    read.model_copy(update={"models": (read.models[0], *seen)}).write(path, overwrite=True)
    assert {p.dropped for p in make_frontier([folder], out=tmp_path / "out").points} == {None, (3, 4)}


def change(folder, **settings):
    """Plant other settings of the full model, or another file of questions."""
    path, questions = folder / "comparison.json", settings.pop("questions", None)
    read = Comparison.read(path)
    full = read.models[0].model_copy(update={"settings": {**read.models[0].settings, **settings}})
    facts = read.provenance if questions is None else {**read.provenance, "questions": questions}
    changed = read.model_copy(update={"models": (full, *read.models[1:]), "provenance": facts})
    changed.write(path, overwrite=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 1}, "--seed 1, and not 0"),
        ({"sets": ["asdiv", "mmlu"]}, "--sets asdiv,mmlu, and not the default"),
        ({"limit": 60}, "--limit 60, and not 500"),
        ({"few_shot": 5}, "--few-shot 5, and not the default"),
        ({"questions": {"math.jsonl": "00" * 32}}, "math.jsonl has another content"),
        ({"questions": {}}, None),  # of finished runs
    ],
)
def test_as_many_other_questions_are_not_one_frontier(tmp_path, changed, words):
    for name, models in (("one", ("full", "pruned")), ("two", ("full", "healed"))):
        write_bill(tmp_path / name, n=40, models=models, thinking=False, tasks=(("math", "choice"),))
        with_gains(tmp_path / name, {label: SHARES[label] for label in models})
    change(tmp_path / "two", **changed)
    if words is None:
        make_frontier([tmp_path / "one", tmp_path / "two"], out=tmp_path / "out")
        return
    with pytest.raises(RegrowthError, match=f"two asked other questions than .*one: {words}"):
        make_frontier([tmp_path / "one", tmp_path / "two"], out=tmp_path / "out")


def test_a_bill_of_lm_eval_has_no_gains_and_cannot_get_any(tmp_path):
    write_bill(tmp_path / "bill", n=40, thinking=False, tasks=(("math", "choice"),))
    path = tmp_path / "bill" / "comparison.json"
    read = Comparison.read(path)
    facts = {**read.provenance, "lm_eval": {"full": {"version": "0.4.13"}}}
    read.model_copy(update={"gains": None, "provenance": facts}).write(path, overwrite=True)
    with pytest.raises(UsageError, match="made with --from-lm-eval, and such a comparison has no gains") as refused:
        make_frontier([tmp_path / "bill"], out=tmp_path / "out")
    assert "--gains" not in str(refused.value)


def test_the_command_and_what_it_refuses(bill, tmp_path):
    out = tmp_path / "out"
    document = json.loads(succeed("evaluate", "frontier", bill, "--max-loss", "1%", "--out", out, "--json").stdout)
    assert document["format"] == "regrowth.frontier/2"
    assert document["most"] is None
    shown = " ".join(succeed("evaluate", "frontier", bill, "--out", out, "--overwrite").stdout.split())
    assert "No cut passes the comparison's policy" in shown
    check_refused(run("evaluate", "frontier", bill, "--out", out), 1, "already exists")
    policy = tmp_path / "policy.yaml"
    policy.write_text("must: {answer_bits_per_byte: 9}\ngains: {weight_bytes: 0.77x}\n")
    judged = json.loads(
        succeed("evaluate", "frontier", bill, "--policy", policy, "--out", tmp_path / "p", "--json").stdout
    )
    assert [point["verdict"] and point["verdict"]["decision"] for point in judged["points"]] == [None, "NO-GO", "GO"]
    policy.write_text("must: {needle_recall: 5}\n")
    refused = run("evaluate", "frontier", bill, "--policy", policy, "--out", tmp_path / "x")
    check_refused(refused, 2, "limits needle_recall, which is not measured")
    write_bill(tmp_path / "bare", n=60, thinking=False, gains=False)
    check_refused(run("evaluate", "frontier", tmp_path / "bare", "--out", tmp_path / "x"), 2, "holds no gains")
    write_bill(tmp_path / "other", n=80, models=("full", "pruned"), thinking=False)
    with_gains(tmp_path / "other", {label: SHARES[label] for label in ("full", "pruned")})
    refused = run("evaluate", "frontier", bill, tmp_path / "other", "--out", tmp_path / "x")
    check_refused(refused, 1, "asked other questions than")
    assert not (tmp_path / "x").exists()
