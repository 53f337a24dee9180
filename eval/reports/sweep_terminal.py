"""A sweep for a terminal: each size by domain, and the map of starts in colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eval.reports.rich_tables import legend

if TYPE_CHECKING:
    from rich.console import RenderableType

HOW_TO_READ = (
    "One block of layers is dropped at a time, at the start shown; nothing is healed. Accuracy: the choice of highest "
    "log-likelihood per character, with its 95 % interval. Δ NLL: change of -log2 p(gold answer | question) against "
    "the full model on the same questions, bits per answer, with its 95 % paired interval. Greedy: open questions "
    "whose answer's tokens each are the model's first choice; it is no accuracy, since nothing is generated."
)


def sweep_tables(document: dict[str, Any]) -> RenderableType:
    """The document of sweep.json for a terminal."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    healed = document["healed"]
    parts: list[Any] = []
    for curve in document["curves"]:
        choice = curve["chance"] is not None
        what = f"{curve['domain']}, {curve['protocol']}"
        chance = f", chance {100 * curve['chance']:.0f} %" if choice else ""
        n = next(
            t["n"] for t in document["tasks"] if (t["domain"], t["protocol"]) == (curve["domain"], curve["protocol"])
        )
        table = Table(title=f"{what}: {n} questions{chance}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("dropped", "from", "accuracy, %" if choice else "greedy, %", "NLL, bits", "Δ NLL, bits"):
            table.add_column(name, justify="right", no_wrap=True)
        own = [h for h in healed if (h["domain"], h["protocol"]) == (curve["domain"], curve["protocol"])]
        for point in [*curve["points"], *own]:
            table.add_row(*_cells(point))
        parts.append(table)
    how = document["how"]
    parts += [Text(f"Starts: {chosen_starts(document)}."), Text(_way(how))]
    parts += [Text(note) for note in document["notes"]]
    return Group(*parts, legend(HOW_TO_READ))


def chosen_starts(document: dict[str, Any]) -> str:
    """How the start of each size was chosen: a warning where it was on the very questions that are shown."""
    starts = document["starts"]
    if starts == "best":
        return "each size at the scan's best start"
    if starts == "deepest":
        return "each size at its deepest start, the last layer kept"
    return "each size at its cheapest start, all domains alike, chosen on these very questions"


def _cells(point: dict[str, Any]) -> list[str]:
    name = str(point["size"]) if "+" not in point["variant"] else f"{point['size']} + adapter"
    nll, change = point["answer_nll_bits"], point["answer_nll_bits_difference"]
    score = "–"
    if point["accuracy"] is not None:
        score = f"{100 * point['accuracy']['estimate']:.1f} [{100 * point['accuracy']['low']:.0f}, "
        score += f"{100 * point['accuracy']['high']:.0f}]"
    elif point["answer_greedy"] is not None:
        score = f"{100 * point['answer_greedy']:.1f}"
    return [
        name,
        "" if point["start"] is None else str(point["start"]),
        score,
        f"{nll['estimate']:.2f}",
        "" if change is None else f"{change['estimate']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}]",
    ]


def _way(how: dict[str, Any]) -> str:
    shared = (
        "contexts shared by a question's choices" if how["path"] == "tree" else f"contexts not shared: {how['why']}"
    )
    return (
        f"{how['layer_passes']} layer passes, {how['relative_passes']:.2f} times one model, over {how['tokens']:,} "
        f"tokens ({how['tokens_one_by_one']:,} request by request; {shared})."
    )
