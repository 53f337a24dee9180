"""The plan of a cut ("regrowth.plan/1"): which layers go, why, and what changes in the config."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.choosing.criteria import CRITERIA
from prune.common.errors import CheckpointError
from prune.common.layers import runs, spell_layers
from prune.common.provenance import read_artefact

if TYPE_CHECKING:
    from rich.console import Group

    from prune.scanning.result import Scan

FORMAT = "regrowth.plan/1"
PLAN_FILE = "prune_plan.json"
_MOST_LAYERS = 100_000  # in a plan that was read; a larger number would fill memory before it is found wrong


@dataclass(frozen=True)
class Size:
    """Tensors and bytes of a checkpoint's weights; `parameters` is None where tensors are packed (quantised)."""

    tensors: int
    bytes: int
    parameters: int | None


@dataclass(frozen=True)
class CutPlan:
    """What a cut will do. All layer numbers are 0-based and those of the source.

    Args:
        model: the source as the user named it (folder or hub id); `commit` its hub commit, if any.
        identity: hashes of the source's config and shard headers (`prune.checkpoint.identity.model_identity`).
        model_type: family, as in config.json.
        layers: L, how many layers the source has.
        dropped: layers that go, rising.
        criterion: one of `prune.choosing.criteria.CRITERIA`, or "named" where the user named the place.
        evidence: the numbers behind the choice, from a scan; empty without one.
        config: fields of config.json that change: `{"field": {"before": ..., "after": ...}}`.
        before, after: size of the weights.
        carry_code: whether the model's own Python files are carried along.
        history: earlier cuts of the same model, oldest first: `{"model", "layers", "dropped"}` each.
        provenance: versions and command.
        scan: the scan that this plan itself made; written beside the weights, no part of the plan's document.
    """

    model: str
    commit: str | None
    identity: dict[str, Any]
    model_type: str
    layers: int
    dropped: tuple[int, ...]
    criterion: str
    evidence: dict[str, Any]
    config: dict[str, dict[str, Any]]
    before: Size
    after: Size
    carry_code: bool
    history: tuple[dict[str, Any], ...]
    provenance: dict[str, Any]
    scan: Scan | None = field(default=None, compare=False, repr=False)

    @property
    def kept(self) -> tuple[int, ...]:
        """Layers that stay, rising: layer i of the result is layer kept[i] of the source."""
        gone = set(self.dropped)
        return tuple(layer for layer in range(self.layers) if layer not in gone)

    @property
    def words(self) -> str:
        """`drop 6 of 30 layers: 13-18 (source numbering, 0-based); keep 0-12 and 19-29`."""
        return (
            f"drop {len(self.dropped)} of {self.layers} layers: {spell_layers(self.dropped)} "
            f"(source numbering, 0-based); keep {spell_layers(self.kept)}"
        )

    @property
    def original(self) -> tuple[int, ...]:
        """Kept layers in the numbering of the model before its first cut; `kept` itself without a history."""
        numbers = self.kept
        for earlier in reversed(self.history):
            gone = set(earlier["dropped"])
            stayed = [layer for layer in range(earlier["layers"]) if layer not in gone]
            numbers = tuple(stayed[layer] for layer in numbers)
        return numbers

    def to_json(self) -> dict[str, Any]:
        """The document that prune_plan.json holds."""
        return {
            "format": FORMAT,
            "words": self.words,
            "source": {"model": self.model, "commit": self.commit, **self.identity},
            "model_type": self.model_type,
            "layers": self.layers,
            "dropped": list(self.dropped),
            "kept": list(self.kept),
            "blocks": [{"start": start, "n": n} for start, n in runs(self.dropped)],
            "criterion": self.criterion,
            "evidence": self.evidence,
            "config": self.config,
            "before": vars(self.before),
            "after": vars(self.after),
            "carry_code": self.carry_code,
            "history": list(self.history),
            "provenance": self.provenance,
        }

    @classmethod
    def read(cls, path: str | Path) -> CutPlan:
        """Read prune_plan.json.

        Raises:
            CheckpointError: missing, of another format, or contradicting itself.
        """
        document = read_artefact(path, FORMAT)
        try:
            source = dict(document["source"])
            plan = cls(
                model=source.pop("model"),
                commit=source.pop("commit"),
                identity=source,
                model_type=document["model_type"],
                layers=document["layers"],
                dropped=tuple(document["dropped"]),
                criterion=document["criterion"],
                evidence=dict(document["evidence"]),
                config=dict(document["config"]),
                before=Size(**document["before"]),
                after=Size(**document["after"]),
                carry_code=document["carry_code"],
                history=tuple(document["history"]),
                provenance=dict(document["provenance"]),
            )
            sound = _rising(plan.dropped, plan.layers) and _history_fits(plan) and plan.to_json() == document
            if sound:
                plan.rows()  # names and numbers of the wrong kind show here
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error})") from None
        if not sound:
            raise CheckpointError(f"{path} is damaged: its fields contradict each other")
        return plan

    def table(self) -> Group:
        """The plan for a terminal, the words first."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        shown = Table(show_header=False, box=None, pad_edge=False)
        shown.add_column(style="bold")
        shown.add_column(overflow="fold")
        for name, value in self.rows():
            shown.add_row(Text(name), Text(value))
        return Group(Text(self.words), shown)

    def rows(self) -> list[tuple[str, str]]:
        """The plan as (name, value) rows, for the table and the model card."""
        shown = [
            ("model", f"{self.model} ({self.model_type}{', commit ' + self.commit[:12] if self.commit else ''})"),
            ("drop", f"{spell_layers(self.dropped)} ({len(self.dropped)} of {self.layers})"),
            ("keep", f"{spell_layers(self.kept)} ({len(self.kept)}), the last layer {self._last()}"),
            ("criterion", _criterion_words(self.criterion)),
        ]
        told = ("scan", "check", "removal")
        shown += [(name.replace("_", " "), _number(value)) for name, value in self.evidence.items() if name not in told]
        shown += evidence_rows(self.evidence)
        shown.append(("weights", f"{_bytes(self.before.bytes)} -> {_bytes(self.after.bytes)}"))
        if self.before.parameters is not None and self.after.parameters is not None:
            shown.append(
                ("parameters", f"{self.before.parameters / 1e6:,.1f} M -> {self.after.parameters / 1e6:,.1f} M")
            )
        shown += [(f"config {name}", _change(change)) for name, change in self.config.items()]
        if self.history:
            first = self.history[0]
            shown.append(("in the first source", f"keep {spell_layers(self.original)} of {first['model']}"))
        return shown

    def _last(self) -> str:
        return "dropped" if self.layers - 1 in self.dropped else "kept"


def _criterion_words(criterion: str) -> str:
    if criterion == "named":
        return "named: the layers were named on the command line"
    return f"{criterion}: {CRITERIA[criterion].words}"


def _rising(dropped: tuple[int, ...], layers: int) -> bool:
    sane = type(layers) is int and layers <= _MOST_LAYERS
    inside = sane and all(type(layer) is int and 0 <= layer < layers for layer in dropped)
    return inside and 0 < len(dropped) < layers and list(dropped) == sorted(set(dropped))


def _history_fits(plan: CutPlan) -> bool:
    if not all(_rising(tuple(earlier["dropped"]), earlier["layers"]) for earlier in plan.history):
        return False
    counts = [earlier["layers"] - len(earlier["dropped"]) for earlier in plan.history]
    return counts == [*(earlier["layers"] for earlier in plan.history[1:]), plan.layers][: len(counts)]


def _bytes(size: int) -> str:
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.4g} {unit}"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _change(change: dict[str, Any]) -> str:
    before, after = (_abridged(change[side]) for side in ("before", "after"))
    return f"{before} -> {after}"


def _abridged(value: Any) -> str:
    """A list of layer types as its counts: `24 full_attention, 6 sliding_attention`."""
    if value is None:
        return "absent"
    if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        return ", ".join(f"{value.count(kind)} {kind}" for kind in sorted(set(value)))
    return json.dumps(value)


def evidence_rows(evidence: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of what was measured on held-out text, if anything was; KeyError or TypeError where a part is missing."""
    rows = []
    removal = evidence.get("removal")
    if removal:
        steps = [f"{layer} ({loss:.3f})" for layer, loss in zip(removal["order"], removal["loss"], strict=True)]
        rows.append((f"removed in turn (loss after, nats, {removal['tokens']} tokens)", ", ".join(steps)))
    check = evidence.get("check")
    if check:
        rows += _check_rows(check)
    return rows


def _check_rows(check: dict[str, Any]) -> list[tuple[str, str]]:
    where = "held-out text" if check["held_out"] else "text of the scan itself (it has no other documents)"
    cost = f"{check['passes']:.2f} plain passes over {check['text_tokens']} tokens"
    rows = [("checked on", f"{where}: {check['screened']} candidates tried, {cost}")]
    own, chosen = check["own"], check["chosen"]
    for finalist in check["finalists"]:
        layers = finalist["dropped"]
        mark = " (taken)" if layers == chosen else " (the criterion's own)" if layers == own else ""
        if layers == own == chosen:
            mark = " (taken, the criterion's own)"
        value = f"loss {finalist['loss']:.3f}, KL {finalist['kl']:.3f} ± {finalist['kl_stderr']:.3f}{mark}"
        rows.append((f"without {spell_layers(layers)}", value))
    rows.append(("full model", f"loss {check['full_loss']:.3f} (nats a token, {check['tokens']} tokens)"))
    if own != chosen:
        gain = f"{check['gain']:.3f} ± {check['gain_stderr']:.3f} nats less KL"
        rows.append(
            (
                "the check overrules",
                f"{spell_layers(own)} was the criterion's choice; {spell_layers(chosen)} has {gain}",
            )
        )
    return rows
