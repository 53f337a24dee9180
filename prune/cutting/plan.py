"""The plan of a cut (prune_plan.json): which layers go, why, and what changes in the config."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, computed_field, model_validator

from prune.choosing.criteria import CRITERIA
from prune.choosing.fit import fit_table, target_words
from prune.common.files.artefact import Artefact, Part
from prune.common.layers import layers_without, runs, spell_layers
from prune.common.sizes import spell_size

if TYPE_CHECKING:
    from rich.console import Group

    from prune.families.subject import Remainder
    from prune.scanning.result import Scan

PLAN_FILE = "prune_plan.json"
HEADS_BOUND = 0.2  # a plan that takes a larger share of the heads' scores comes with a warning
# A larger number in a damaged file would fill memory.
_LAYERS = Field(ge=1, le=100_000, description="L, how many layers the model has")
_DROPPED = Field(min_length=1, description="layers that go, 0-based and rising")


class PlannedSource(Part):
    """The model that is cut."""

    model: str = Field(description="folder or hub id, as the user named it")
    commit: str | None = Field(description="commit of a hub model")
    config_sha256: str = Field(description="SHA-256 of its config.json")
    shards: dict[str, str] = Field(description="shard -> SHA-256 of its header")


class Size(Part):
    """How large the weights are."""

    tensors: int = Field(description="how many tensors")
    bytes: int = Field(description="bytes of all tensors")
    parameters: int | None = Field(description="values in all tensors; null where tensors are packed (quantised)")


class EarlierCut(Part):
    """A cut that the source had gone through before."""

    model: str = Field(description="what was cut then")
    layers: Annotated[int, _LAYERS]
    dropped: Annotated[tuple[int, ...], _DROPPED]

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_layers(self.dropped, self.layers)
        return self

    @property
    def kept(self) -> tuple[int, ...]:
        """Layers that stayed, rising."""
        return layers_without(self.dropped, self.layers)


class CutPlan(Artefact):
    """What a cut will do, or has done. All layer numbers are those of the source.

    A plan that was just made hands on what was read for it, so that `cut` reads nothing twice: `remainder`, and `scan`
    where it made one. Neither is part of the document.
    """

    AGAIN: ClassVar[str] = "cut again with `prune cut`"

    format: Literal["regrowth.plan/2"] = "regrowth.plan/2"
    source: PlannedSource = Field(description="the model that is cut")
    model_type: str = Field(description="family, as in config.json")
    layers: Annotated[int, _LAYERS]
    dropped: Annotated[tuple[int, ...], _DROPPED]
    criterion: str = Field(description='what chose the layers; "named" where the user did')
    evidence: dict[str, Any] = Field(
        description="the numbers it chose by: `angular_distance` of a single block, `influence`, `domain_cost` and "
        "`costs`, `scan` (what it was measured on), `removal` of `--criterion loss` (layers in the `order` of their "
        "removal, and the `loss` after each, on windows of `tokens` in all), and `check` on held-out text: `own` (the "
        "criterion's choice), `chosen`, `gain` in KL and its standard error (paired), `finalists` (`dropped`, `loss`, "
        "`kl`, `kl_stderr`, nats a token), `full_loss`, `tokens` they were measured on, `screened` candidates, "
        "`passes` it cost over `text_tokens`, `held_out`, `streamed` where the model was run layer by layer from its "
        "files; and with `--heads` `heads`: the shares of `copy_score` and `write_score`, and the `retrieval_heads` "
        "of `of_retrieval_heads`, that go, and the share `protected`; `finalists`: which of the check's finalists a "
        "short healing took, in words; and with a target `fit` (`target`, `weights`, `cache`, `work` and `total` in "
        "bytes, `context`, `sequences`, `bits`, `chunk` of a prompt, `kinds` of layers) or `speed` (`target`, tokens "
        "a second of `prefill` and `decode`, and the `ratio` of what it is `of`; `context`, tokens of each `prompt`, "
        "`sequences`, `rounds`, `device`, `dtype`, whether the `whole` model was timed), each with a line for every "
        "size (`sizes`) and the one that is `taken`"
    )
    config: dict[str, dict[str, Any]] = Field(description="fields of config.json that change: `before` and `after`")
    before: Size = Field(description="the weights of the source")
    after: Size = Field(description="the weights that stay")
    carry_code: bool = Field(description="whether the model's own Python files are carried along")
    llama_cpp: str = Field(
        default="", description="why llama.cpp would run the cut as another model, and what to do; empty elsewhere"
    )
    history: tuple[EarlierCut, ...] = Field(description="earlier cuts, where the source was cut itself; oldest first")
    provenance: dict[str, Any] = Field(description="versions and command")
    _remainder: Remainder | None = PrivateAttr(default=None)
    _scan: Scan | None = PrivateAttr(default=None)

    @computed_field(description="layers that stay, rising: layer i of the pruned model is layer kept[i] of the source")  # type: ignore[prop-decorator]
    @property
    def kept(self) -> tuple[int, ...]:
        return layers_without(self.dropped, self.layers)

    @computed_field(description="the dropped layers as blocks: the first layer of each, and its size")  # type: ignore[prop-decorator]
    @property
    def blocks(self) -> tuple[dict[str, int], ...]:
        return tuple({"start": start, "n": n} for start, n in runs(self.dropped))

    @computed_field(description="the plan in one sentence")  # type: ignore[prop-decorator]
    @property
    def words(self) -> str:
        return (
            f"drop {len(self.dropped)} of {self.layers} layers: {spell_layers(self.dropped)} "
            f"(source numbering, 0-based); keep {spell_layers(self.kept)}"
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_layers(self.dropped, self.layers)
        left = [earlier.layers - len(earlier.dropped) for earlier in self.history]
        if left != [*(earlier.layers for earlier in self.history), self.layers][1:]:
            raise ValueError("history: a cut does not start from what the one before it left")
        try:
            self.rows()
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CutPlan) and self.to_json() == other.to_json()

    def handing_on(self, remainder: Remainder, scan: Scan | None) -> Self:
        """This plan with what was read and measured for it."""
        self._remainder, self._scan = remainder, scan
        return self

    @property
    def remainder(self) -> Remainder | None:
        """What stays of the opened source; None for a plan that was read from a file."""
        return self._remainder

    @property
    def scan(self) -> Scan | None:
        """The scan that this plan made for itself; it is written beside the weights."""
        return self._scan

    @property
    def model(self) -> str:
        """The source, as the user named it."""
        return self.source.model

    @property
    def commit(self) -> str | None:
        """The source's commit on the hub, if any."""
        return self.source.commit

    @property
    def identity(self) -> dict[str, Any]:
        """The source's hashes, as `prune.families.subject.Subject.identity` gives them."""
        return {"config_sha256": self.source.config_sha256, "shards": self.source.shards}

    @property
    def original(self) -> tuple[int, ...]:
        """Kept layers in the numbering of the model before its first cut; `kept` itself without a history."""
        numbers = self.kept
        for earlier in reversed(self.history):
            numbers = tuple(earlier.kept[layer] for layer in numbers)
        return numbers

    def table(self, *, sizes: bool = True) -> Group:
        """The plan for a terminal, the words first; `sizes`: behind the table of sizes, where it has a target."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        shown = Table(show_header=False, box=None, pad_edge=False)
        shown.add_column(style="bold")
        shown.add_column(overflow="fold")
        for name, value in self.rows():
            shown.add_row(Text(name), Text(value))
        told = fit_table(self.evidence) if sizes else None
        return Group(Text(self.words), shown) if told is None else Group(told, Text(self.words), shown)

    @property
    def warnings(self) -> list[str]:
        """What to know before the cut is used, one line each."""
        other = f"Warning: in llama.cpp (GGUF) this cut is another model: {self.llama_cpp}." if self.llama_cpp else ""
        return [line for line in (self._recall_warning(), other) if line]

    def _recall_warning(self) -> str:
        """One line where the cut takes much of what the heads do; else empty.

        A share of the write score that is no larger than that of the layers does not count: spread evenly, it would be
        as much.
        """
        heads = self.evidence.get("heads")
        if not heads:
            return ""
        write_bound = max(HEADS_BOUND, len(self.dropped) / self.layers)
        if heads["copy_score"] <= HEADS_BOUND and heads["write_score"] <= write_bound:
            return ""
        remedy = f"; --protect-heads {1 - HEADS_BOUND:g} keeps a choice to less" * (heads["copy_score"] > HEADS_BOUND)
        return f"Warning: recall of long contexts is at risk: {heads_words(heads)} go with these layers{remedy}."

    def rows(self) -> list[tuple[str, str]]:
        """The plan as (name, value) rows, for the table and the model card."""
        shown = [
            ("model", f"{self.model} ({self.model_type}{', commit ' + self.commit[:12] if self.commit else ''})"),
            ("drop", f"{spell_layers(self.dropped)} ({len(self.dropped)} of {self.layers})"),
            ("keep", f"{spell_layers(self.kept)} ({len(self.kept)}), the last layer {self._last()}"),
            ("criterion", _criterion_words(self.criterion)),
        ]
        told = ("scan", "check", "removal", "heads", "fit", "speed")
        shown += [(name.replace("_", " "), _number(value)) for name, value in self.evidence.items() if name not in told]
        shown += [*target_words(self.evidence), *evidence_rows(self.evidence)]
        shown.append(("weights", " -> ".join(spell_size(side.bytes, digits=2) for side in (self.before, self.after))))
        if self.before.parameters is not None and self.after.parameters is not None:
            shown.append(
                ("parameters", f"{self.before.parameters / 1e6:,.1f} M -> {self.after.parameters / 1e6:,.1f} M")
            )
        shown += [(f"config {name}", _change(change)) for name, change in self.config.items()]
        if self.llama_cpp:
            shown.append(("in llama.cpp", f"another model: {self.llama_cpp}"))
        if self.history:
            first = self.history[0]
            shown.append(("in the first source", f"keep {spell_layers(self.original)} of {first.model}"))
        return shown

    def _last(self) -> str:
        return "dropped" if self.layers - 1 in self.dropped else "kept"


def _criterion_words(criterion: str) -> str:
    if criterion == "named":
        return "named: the layers were named on the command line"
    return f"{criterion}: {CRITERIA[criterion].words}"


def _check_layers(dropped: tuple[int, ...], layers: int) -> None:
    if not all(a < b for a, b in pairwise((-1, *dropped, layers))) or len(dropped) == layers:
        raise ValueError(f"dropped is no rising list of some of the layers 0 to {layers - 1}")


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
    """Rows of what was measured, if anything was; KeyError or TypeError where a part is missing."""
    rows = []
    removal = evidence.get("removal")
    if removal:
        steps = [f"{layer} ({loss:.3f})" for layer, loss in zip(removal["order"], removal["loss"], strict=True)]
        rows.append((f"removed in turn (loss after, nats, {removal['tokens']} tokens)", ", ".join(steps)))
    heads = evidence.get("heads")
    if heads:
        rows.append(("heads that go", heads_words(heads)))
    check = evidence.get("check")
    if check:
        rows += _check_rows(check)
    return rows


def heads_words(heads: dict[str, Any]) -> str:
    """What of the measured heads goes with the dropped layers."""
    return (
        f"{heads['copy_score']:.1%} of the copy score, {heads['write_score']:.1%} of the write score, "
        f"{heads['retrieval_heads']} of {heads['of_retrieval_heads']} retrieval heads"
    )


def _check_rows(check: dict[str, Any]) -> list[tuple[str, str]]:
    where = "held-out text" if check["held_out"] else "text of the scan itself (it has no other documents)"
    cost = f"{check['passes']:.2f} plain passes over {check['text_tokens']} tokens"
    rows = [("checked on", f"{where}: {check['screened']} candidates tried, {cost}")]
    first_choice, chosen = check["own"], check["chosen"]
    for finalist in check["finalists"]:
        layers = finalist["dropped"]
        mark = " (taken)" if layers == chosen else " (the criterion's own)" if layers == first_choice else ""
        if layers == first_choice == chosen:
            mark = " (taken, the criterion's own)"
        value = f"loss {finalist['loss']:.3f}, KL {finalist['kl']:.3f} ± {finalist['kl_stderr']:.3f}{mark}"
        rows.append((f"without {spell_layers(layers)}", value))
    rows.append(("full model", f"loss {check['full_loss']:.3f} (nats a token, {check['tokens']} tokens)"))
    if first_choice != chosen:
        gain = f"{check['gain']:.3f} ± {check['gain_stderr']:.3f} nats less KL"
        rows.append(
            (
                "the check overrules",
                f"{spell_layers(first_choice)} was the criterion's choice; {spell_layers(chosen)} has {gain}",
            )
        )
    return rows
