"""The turns of all models, and what they say together."""

from __future__ import annotations

from dataclasses import asdict

from eval.gains.arithmetic import all_gains, in_turn
from eval.gains.child import FORKS
from eval.gains.orders import Turn
from eval.gains.plan import GainsPlan
from eval.gains.record import Gains
from prune.common.machine.children import ENDED, ChildProcess
from prune.common.screen.terminal import progress

_CHILD = "import sys; sys.path = {path!r}; from eval.gains.child import main; main({descriptor})"
_PEAKS = {
    "cpu": "resident memory of the process, less what it held before the model",
    "cuda": "torch's allocator, all GPUs together",
}


def measure_gains(plan: GainsPlan, *, show_progress: bool = True) -> Gains:
    """Give each model its turns, round by round, each turn in a process of its own.

    A model that cannot be measured is a note: what was asked is not lost for it.
    """
    turns, failed = take_turns(plan, show_progress=show_progress)
    sizes = {"context": plan.context, "new_tokens": plan.new_tokens, "sequences": plan.sequences}
    return Gains(
        engine="transformers",
        device=plan.device,
        peak=_PEAKS.get(plan.device.partition(":")[0], "not told by this device"),
        rounds=plan.rounds,
        **sizes,
        models=all_gains(turns, plan.full, **sizes),
        notes=(*plan.notes, *(f"no gains of {label}: {why}" for label, why in failed.items())),
    )


def take_turns(plan: GainsPlan, *, show_progress: bool = True) -> tuple[dict[str, list[Turn]], dict[str, str]]:
    """The turns of each model that had all of them, and why the others had not."""
    turns: dict[str, list[Turn]] = {label: [] for label in plan.orders}
    failed: dict[str, str] = {}
    child: ChildProcess | None = None
    total = plan.rounds * len(plan.orders)
    with progress("measuring what the cut gives", total, shown=show_progress) as bar:
        try:
            for label in in_turn(list(plan.orders), plan.rounds):
                bar.note(label)
                if label not in failed:
                    child = child or ChildProcess(_CHILD)
                    kind, content = child.ask(asdict(plan.orders[label]))
                    if kind == "turn":
                        turns[label].append(Turn(**content))
                    else:
                        failed[label] = content
                    if kind == ENDED or not FORKS:
                        child.close()
                        child = None
                bar.advance()
        finally:
            if child is not None:
                child.close()
    return {label: each for label, each in turns.items() if label not in failed}, failed
