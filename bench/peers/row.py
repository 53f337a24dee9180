"""A row of a comparison: a tool's figures, what its result lost, and why there are none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.peers import judging
from bench.peers.record import Measured, bytes_under

OURS = "Regrowth"
Losses = Mapping[str, Mapping[str, float]]  # of one model: by measure, see `judging.losses`


def figures(tool: str, run: Measured, folder: Path, model: Path, *, dropped: Sequence[int]) -> dict[str, object]:
    """What a whole job took. `model` is where its result lies, for `billed`."""
    if run.code or not (model / "config.json").exists():
        return {"tool": tool, "not_run": run.why}
    return {
        "tool": tool,
        "seconds": round(run.seconds, 1),
        "cpu_seconds": round(run.cpu_seconds, 1),
        "peak_mib": round(run.most / (1 << 20)),
        "disk_mib": round(bytes_under(folder) / (1 << 20)),
        "dropped": ",".join(map(str, dropped)),
        "model": str(model),
    }


def billed(rows: Sequence[dict[str, object]], out: Path, **how: object) -> list[dict[str, object]]:
    """The rows with what their models lost against the full one.

    Args:
        how: what `judging.bill` is told.
    """
    models = {str(row["tool"]): Path(str(row["model"])) for row in rows if "model" in row}
    labels = {f"model{index}": path for index, path in enumerate(models.values())}
    found = judging.bill(labels, out, **how) if models else {}  # type: ignore[arg-type]
    bill = {name: found[label] for name, label in zip(models, labels, strict=True)}
    kept = [{name: value for name, value in row.items() if name != "model"} for row in rows]
    return [row | losses_of(str(row["tool"]), bill) for row in kept]


def losses_of(tool: str, bill: Mapping[str, Losses]) -> dict[str, object]:
    """What a row's model lost against the full one by measure, and of a peer, where that is less than Regrowth's."""
    if tool not in bill:
        return {}
    found: dict[str, object] = {what: dict(losses) for what, losses in bill[tool].items()}
    if tool != OURS and OURS in bill:
        found["ahead_of_regrowth"] = ahead(bill[tool], bill[OURS]) or "nowhere"
    return found


def ahead(theirs: Losses, ours: Losses) -> str:
    """The measures on which they lost less, by bits and nats; one whose intervals overlap says so."""
    found = []
    for what, row in theirs.items():
        unit = unit_of(row)
        if row[unit] < ours[what][unit]:
            apart = row[f"{unit}_high"] < ours[what][f"{unit}_low"]
            found.append(what if apart else f"{what} (intervals overlap)")
    return "; ".join(found)


def unit_of(row: Mapping[str, float]) -> str:
    return "bits" if "bits" in row else "nats"


def layers_dropped(cut: Path) -> list[int]:
    """By a cut that Regrowth wrote; none where it wrote none."""
    plan = cut / "prune_plan.json"
    return json.loads(plan.read_text())["dropped"] if plan.exists() else []
