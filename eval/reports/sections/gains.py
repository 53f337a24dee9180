"""What a cut gives and what it costs: one line each, and the table of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.billing.frontier import weight_words
from eval.reports.model import Section
from eval.reports.wording.tables import Record, Shown, field, headings, within
from eval.reports.wording.text import PER_BYTE, bits, certain, listed, nll_change, points, task_name
from prune.common.screen.numbers import plain
from prune.common.screen.tables import Cell, Table
from prune.common.thinking import MODES

_SMALL = 0.0005  # of a ratio: what is shown as 0.0 %
_MODEL = field("Model", "", lambda row: Cell(row["model"]), words=True)


def gain_line(comparison: Record, label: str) -> str:
    """What a model takes less than the full one, and how much faster it is; "" where that was not measured."""
    row = _row(comparison, label)
    ratio = None if row is None else row["ratio"]
    if ratio is None:
        return ""
    told = [_fewer(ratio["weight_bytes"], "weight bytes")]
    if ratio["kv_bytes_per_token"] is not None:
        told.append(_fewer(ratio["kv_bytes_per_token"], "KV-cache bytes a token"))
    if ratio["peak_memory_bytes"] is not None:
        told.append(_fewer(ratio["peak_memory_bytes"]["median"], "peak memory", "less"))
    told.append(f"prompts read {_as_fast(ratio['prefill_tokens_per_second'])}")
    told.append(f"answers written {_as_fast(ratio['decode_tokens_per_second'])}")
    return ", ".join(told)


def cost_line(comparison: Record, label: str) -> str:
    """What a model loses domain by domain, of prose, recall and thinking, as far as it is beyond doubt.

    "" where nothing was compared.

    By accuracy where it fell and the full model has some to lose, else by the answer NLL; of several protocols, the
    one that lost most. Domains whose changes are no larger than those of the full model asked twice are within the
    noise.
    """
    rows = [row for row in comparison["rows"] if row["model"] == label and row["versus"]]
    lost: list[str] = []
    noise: list[str] = []
    quiet: list[str] = []
    for domain in dict.fromkeys(row["domain"] for row in rows):
        asked = [row for row in rows if row["domain"] == domain]
        if told := _loss(asked):
            lost.append(told)
        else:
            (noise if all(map(_is_noise, asked)) else quiet).append(domain)
    for row in comparison["prose"]:
        if row["model"] == label and row["difference"] and certain(row, "difference") > 0:
            lost.append(f"{row['text']} prose {bits(row['difference'], 'nats a token')}")
    for row in comparison["needles"]:
        if row["model"] == label and row["length"] is None and certain(row, "recall_difference") < 0:
            lost.append(f"needle recall {points(row['recall_difference'])}")
    lost += _lost_thinking(comparison["thinking"], label)
    lost += [f"{listed(noise)} within the noise"] if noise else []
    lost += [f"no loss beyond doubt in {listed(quiet)}"] if quiet else []
    return "; ".join(lost)


def _lost_thinking(rows: Sequence[Record], label: str) -> list[str]:
    """Accuracy that is lost for certain, in each domain and mode of thinking; of several protocols the worst."""
    full = {(row["domain"], row["protocol"]): row for row in rows if row["versus"] is None}
    worst: dict[str, Mapping[str, float]] = {}
    for row in rows:
        if row["model"] != label or row["versus"] is None:
            continue
        for mode in MODES:
            name = f"a_{mode}"
            above = full[row["domain"], row["protocol"]][name]["low"] > row["chance"]
            if above and certain(row["versus"], name) < 0:
                task, change = f"{row['domain']} {mode} thinking", row["versus"][name]
                worst[task] = min(worst.get(task, change), change, key=lambda lost: lost["estimate"])
    return [f"{task} {points(change)}" for task, change in worst.items()]


def both_lines(comparison: Record) -> list[tuple[str, str, str]]:
    """Of each model but the full one: its label, what is gained, and what it costs; either may be ""."""
    labels = [model["label"] for model in comparison["models"][1:]]
    return [(label, gain_line(comparison, label), cost_line(comparison, label)) for label in labels]


def plain_lines(comparison: Record) -> list[str]:
    """The same as lines of text."""
    lines = []
    for label, gain, cost in both_lines(comparison):
        lines += [f"{label}, what you gain: {gain}."] if gain else []
        lines += [f"{label}, what it costs: {cost}."] if cost else []
    return lines


def gains_notes(comparison: Record) -> list[str]:
    """Who was not measured, and why."""
    return [] if comparison["gains"] is None else list(comparison["gains"]["notes"])


def gains_section(comparison: Record) -> Section | None:
    """The table of what each model takes, and how it was measured; None where nothing was."""
    gains = comparison["gains"]
    if gains is None or not gains["models"]:
        return None
    return Section(
        key="gains",
        title="What the cut gives",
        lead=measured_how(gains),
        findings=tuple(gains_notes(comparison)),
        tables=(gains_table(gains),),
        short="Gains",
    )


def measured_how(gains: Record) -> str:
    """In one line, what the numbers are of."""
    prompts = "a prompt" if gains["sequences"] == 1 else f"{gains['sequences']} prompts at once, each"
    return (
        f"Measured by {gains['engine']} on {gains['device']}: {prompts} of {gains['context']} tokens, and "
        f"{gains['new_tokens']} tokens written after it. Each model had {_turns(gains['rounds'])}, each in a process "
        "of its own. Numbers are medians with their range, multiples are of the full model in the same round. "
        f"Peak memory: {gains['peak']}."
    )


def _turns(rounds: int) -> str:
    return "one turn" if rounds == 1 else f"{rounds} turns, the models in turn"


def gains_table(gains: Record) -> Table:
    """What each model takes, and how fast it is."""
    return Table.from_records(
        "What the cut gives", gains["models"], (_MODEL, *_TAKES, *_READING, *_WRITING), key="gains"
    )


def _row(comparison: Record, label: str) -> Record | None:
    gains = comparison["gains"]
    return None if gains is None else next((row for row in gains["models"] if row["model"] == label), None)


def _fewer(ratio: float, what: str, word: str = "fewer") -> str:
    """`20 % fewer weight bytes`."""
    if abs(ratio - 1) < _SMALL:
        return f"as {'much' if word == 'less' else 'many'} {what}"
    share = 100 * abs(1 - ratio)
    return f"{plain(share, 0 if share >= 9.95 else 1)} % {word if ratio < 1 else 'more'} {what}"


def _times(spread: Mapping[str, float], words: str = "") -> str:
    """`1.21x [1.18, 1.25]`, or `1.21x as fast [1.18, 1.25]`."""
    return f"{plain(spread['median'], 2)}x{words} [{plain(spread['low'], 2)}, {plain(spread['high'], 2)}]"


def _as_fast(ratio: Mapping[str, float]) -> str:
    """`1.21x as fast [1.18, 1.25]`; no gain and no loss where the rounds differ on which model is faster."""
    if ratio["low"] <= 1 <= ratio["high"]:
        span = f"[{plain(ratio['low'], 2)}x, {plain(ratio['high'], 2)}x]"
        return f"at a speed that the rounds do not tell from the full model's {span}"
    return _times(ratio, " as fast")


def _loss(rows: Sequence[Record]) -> str:
    """The largest loss beyond doubt of one domain's rows, with its protocol; "" where there is none."""
    fell = [row for row in rows if row["versus"]["full_above_chance"]]
    fell = [row for row in fell if certain(row["versus"], "accuracy_difference") < 0]
    if fell:
        worst = min(fell, key=lambda row: row["versus"]["accuracy_difference"]["estimate"])
        return f"{task_name(worst)} {points(worst['versus']['accuracy_difference'])}"
    rose = [row for row in rows if certain(row["versus"], PER_BYTE) > 0]
    if rose:
        worst = max(rose, key=lambda row: nll_change(row["versus"])["estimate"])
        return f"{task_name(worst)} {bits(nll_change(worst['versus']), 'bits per byte')} of answer NLL"
    return ""


def _is_noise(row: Record) -> bool:
    """Whether nothing that the row could lose is more than noise."""
    versus = row["versus"]
    measures = ["accuracy_difference"] if versus["full_above_chance"] else []
    measures += [PER_BYTE] if versus[PER_BYTE] is not None else []
    return bool(measures) and all(within(versus, measure) for measure in measures)


def _of_ratio(key: str, shown: Shown) -> Shown:
    """A cell, with the multiple of the full model beside it."""

    def cell(row: Record) -> Cell:
        value = shown(row)
        ratio = None if row["ratio"] is None else row["ratio"][key]
        multiple = ratio["median"] if isinstance(ratio, Mapping) else ratio
        return value if multiple is None or not value.text else Cell(value.text, f"{multiple:.2f}x", value.sort)

    return cell


def _size(value: float | None) -> Cell:
    if value is None:
        return Cell()
    return Cell(weight_words(int(value)), sort=value)


def _peak(row: Record) -> Cell:
    return _size(None if row["peak_memory_bytes"] is None else row["peak_memory_bytes"]["median"])


def _count(value: float) -> str:
    return f"{value:,.0f}"


_TAKES = (
    field(
        "Parameters, M",
        "values of the weights, in millions",
        _of_ratio("parameters", lambda row: Cell(f"{row['parameters'] / 1e6:,.1f}", sort=row["parameters"])),
    ),
    field(
        "Weights",
        "their bytes as they stand loaded",
        _of_ratio("weight_bytes", lambda row: _size(row["weight_bytes"])),
    ),
    field(
        "KV cache, bytes a token",
        "counted from the cache that was filled",
        _of_ratio(
            "kv_bytes_per_token",
            lambda row: Cell(_count(row["kv_bytes_per_token"]), sort=row["kv_bytes_per_token"]),
        ),
    ),
    field("Peak memory", "the most held while prompts were read and answered", _of_ratio("peak_memory_bytes", _peak)),
)


def _speed(key: str) -> Shown:
    def cell(row: Record) -> Cell:
        rate = row[key]
        digits = 0 if rate["median"] >= 100 else 1
        low, high = (f"{rate[end]:,.{digits}f}" for end in ("low", "high"))
        return Cell(f"{rate['median']:,.{digits}f}", f"[{low}, {high}]", rate["median"])

    return cell


def _multiple(key: str) -> Shown:
    def cell(row: Record) -> Cell:
        if row["ratio"] is None:
            return Cell()
        ratio = row["ratio"][key]
        text, _, note = _times(ratio).partition(" ")
        look = "better" if ratio["low"] > 1 else "worse" if ratio["high"] < 1 else ""
        return Cell(text, note, ratio["median"], look)

    return cell


_READING = (
    field("Reading, tokens/s", "how fast prompts are read", _speed("prefill_tokens_per_second")),
    field("Reading, times full", "that as a multiple of the full model's", _multiple("prefill_tokens_per_second")),
)
_WRITING = (
    field("Writing, tokens/s", "how fast answers are written", _speed("decode_tokens_per_second")),
    field("Writing, times full", "that as a multiple of the full model's", _multiple("decode_tokens_per_second")),
)
PARTS = (  # of the table, where it is too wide: a title and the columns below it
    ("What the cut gives", headings(_MODEL, *_TAKES)),
    ("How fast prompts are read", headings(_MODEL, *_READING)),
    ("How fast answers are written", headings(_MODEL, *_WRITING)),
)
