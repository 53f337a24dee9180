"""A cut to a target: the fewest layers whose going makes a model fit, or makes it fast enough. Pure arithmetic.

What a model takes is in `prune.models.memory.needs`, what its layers cost in seconds in `prune.choosing.times`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prune.choosing.settings import Part
from prune.choosing.times import Times
from prune.common.errors import RegrowthError
from prune.common.layers import layers_without, spell_layers
from prune.common.screen.tables import Cell, Table
from prune.common.sizes import spell_size
from prune.models.memory.needs import Needs


@dataclass(frozen=True)
class SizeTarget:
    """Bytes that a model may take."""

    bytes: int
    needs: Needs

    key = "fit"

    @property
    def layers(self) -> int:
        """L."""
        return self.needs.layers

    def line(self, dropped: Sequence[int]) -> dict[str, Any]:
        """What the model without some layers (0-based) takes, in bytes, and whether that is little enough."""
        taken = self.needs.of(layers_without(dropped, self.layers))
        return {
            "n": len(dropped), "dropped": list(dropped), **asdict(taken), "total": taken.total,
            "met": taken.total <= self.bytes,
        }  # fmt: skip

    @property
    def words(self) -> str:
        """The target as it is asked for."""
        return f"--fit {_size(self.bytes)}"

    def line_words(self, line: dict[str, Any]) -> str:
        """What a model takes, of its line."""
        return f"takes {_size(line['total'])}"

    def facts(self) -> dict[str, Any]:
        """The target, as a plan's evidence has it."""
        caches = self.needs.caches
        return {
            "target": self.bytes,
            **asdict(self.needs.asked),
            "kinds": {kind: sum(cache.kind == kind for cache in caches) for kind in sorted({c.kind for c in caches})},
        }

    def full_words(self, line: dict[str, Any]) -> str:
        """Of the full model, where it is good enough."""
        return f"takes {_size(line['total'])} already, within {self.words}"

    def out_of_reach(self, line: dict[str, Any], name: str) -> str:
        """Where not even the smallest cut will do; `line`: of that."""
        asked = self.needs.asked
        ways = ["fewer --sequences"] * (asked.sequences > 1)
        ways += ["--bits 4"] * (asked.bits > 4 and not self.needs.packed) + ["a shorter --context"]
        ways += ["--prefill-chunk 512"] * (asked.chunk is None and line["work"] > line["total"] // 10)
        return (
            f"{self.words}: no cut of {name} reaches it: with one layer left it takes "
            f"{_size(line['total'])} ({_parts_words(line)}); try {', or '.join(ways)}"
        )


@dataclass(frozen=True)
class SpeedTarget:
    """A factor by which reading (prefill) or writing (decode) is to be faster."""

    factor: float
    part: Part
    times: Times

    key = "speed"

    @property
    def layers(self) -> int:
        """L."""
        return self.times.layers

    def line(self, dropped: Sequence[int]) -> dict[str, Any]:
        """Tokens a second of the model without some layers (0-based), and whether that is enough."""
        read, written = self.times.rates(layers_without(dropped, self.layers))
        full = self.times.rates(range(self.layers))
        ratio = (read if self.part == "prefill" else written) / full[self.part == "decode"]
        rates = {"prefill": read, "decode": written, "ratio": ratio}
        return {"n": len(dropped), "dropped": list(dropped), **rates, "met": ratio >= self.factor}

    @property
    def words(self) -> str:
        """The target as it is asked for."""
        return f"--speed {self.factor:g}x"

    def line_words(self, line: dict[str, Any]) -> str:
        """How fast a model is, of its line."""
        return f"is {line['ratio']:.2f} times as fast in {self.part}"

    def facts(self) -> dict[str, Any]:
        """The target, as a plan's evidence has it."""
        return {
            "target": self.factor,
            "of": self.part,
            "context": self.times.context,
            "prompt": self.times.prompt,
            "sequences": self.times.sequences,
            "rounds": self.times.rounds,
            "whole": self.times.whole,
            "device": self.times.device,
            "dtype": self.times.dtype,
        }

    def out_of_reach(self, line: dict[str, Any], name: str) -> str:
        """Where not even the smallest cut will do; `line`: of that."""
        return (
            f"{self.words}: no cut of {name} reaches it: with one layer left {self.part} is "
            f"{line['ratio']:.2f} times as fast, for embeddings and head stay; ask for less"
        )


Target = SizeTarget | SpeedTarget


class OutOfReachError(RegrowthError):
    """A target that the full model meets, or that no cut does."""


def check_reach(target: Target, name: str) -> None:
    """See that a cut is needed, and that one can be enough.

    Raises:
        OutOfReachError: the full model meets the target, or not even its last layer alone does.
    """
    full = target.line(())
    if isinstance(target, SizeTarget) and full["met"]:  # a factor of speed is above 1
        raise OutOfReachError(f"{name} {target.full_words(full)}: no layer has to go, and nothing is written")
    least = target.line(range(target.layers - 1))
    if not least["met"]:
        raise OutOfReachError(target.out_of_reach(least, name))


def least_layers(target: Target) -> int:
    """How many layers have to go at the least: fewer would not do, whichever they are."""
    singles = [target.line((layer,)) for layer in range(target.layers)]
    value = "total" if target.key == "fit" else "ratio"
    order = sorted(range(target.layers), key=lambda layer: singles[layer][value], reverse=target.key == "speed")
    for n in range(1, target.layers):
        if target.line(sorted(order[:n]))["met"]:
            return n
    return target.layers - 1


def fewest(
    target: Target, choose: Callable[[int], tuple[int, ...]], sizes: Iterable[int]
) -> tuple[list[tuple[int, ...]], tuple[int, ...] | None]:
    """The first choice, of ever more layers, that meets a target.

    Args:
        choose: the layers to drop for a size n.
        sizes: the n to try, rising.

    Returns:
        The choices that were tried, and the one that is taken; None where none meets it.
    """
    tried = []
    for n in sizes:
        tried.append(choose(n))
        if target.line(tried[-1])["met"]:
            return tried, tried[-1]
    return tried, None


def fit_evidence(target: Target, tried: Sequence[Sequence[int]], taken: Sequence[int]) -> dict[str, Any]:
    """What a plan records: the target, a line for each size, and the line that is taken."""
    sizes = [target.line(()), *(target.line(dropped) for dropped in tried if len(dropped) < len(taken))]
    line = target.line(taken)
    return {target.key: {**target.facts(), "sizes": [*sizes, line], "taken": line}}


def target_words(evidence: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of a plan that say what was asked for, and what is reached."""
    rows = []
    for told in (evidence[key] for key in ("fit", "speed") if evidence.get(key)):
        if skipped := sorted(set(range(told["taken"]["n"])) - {line["n"] for line in told["sizes"]}):
            rows.append(("not tried", f"n = {spell_layers(skipped)}: the costs hold no block of that size"))
    if fit := evidence.get("fit"):
        line = fit["taken"]
        rows.append(("fit", f"{_size(line['total'])} of {_size(fit['target'])} ({_asked_words(fit)})"))
        rows.append(("takes", _parts_words(line)))
    if speed := evidence.get("speed"):
        line = speed["taken"]
        words = f"{line['ratio']:.2f}x of {speed['target']:g}x in {speed['of']}, {_setting_words(speed)}"
        rows.append(("speed", words))
    return rows


def fit_table(evidence: dict[str, Any]) -> Table | None:
    """The sizes that were reckoned, the one that is taken marked; None where a plan has no target."""
    if fit := evidence.get("fit"):
        rows = [
            [
                *_heads(line, fit),
                *(_size(line[part]) for part in ("weights", "cache", "work", "total")),
                _room(line, fit),
            ]
            for line in fit["sizes"]
        ]
        title = f"To fit {_size(fit['target'])}: {_asked_words(fit)}"
        return Table.of(
            title,
            ["n", "without", "weights", "KV cache", "work", "sum", "target"],
            rows,
            words=["without", "target"],
        )
    if speed := evidence.get("speed"):
        rows = [
            [
                *_heads(line, speed),
                f"{line['prefill']:,.1f}",
                f"{line['decode']:,.2f}",
                f"{line['ratio']:.3f}x",
                "taken" if line["met"] else "",
            ]
            for line in speed["sizes"]
        ]
        title = f"To be {speed['target']:g}x as fast in {speed['of']}: {_setting_words(speed)}"
        heads = ["n", "without", "prefill, tokens/s", "decode, tokens/s", f"{speed['of']} against full", ""]
        return Table.of(title, heads, rows, words=["without", ""])
    return None


def _heads(line: dict[str, Any], told: dict[str, Any]) -> list[str | Cell]:
    taken = line["n"] == told["taken"]["n"]
    return [
        Cell(str(line["n"]), look="strong" if taken else ""),
        spell_layers(line["dropped"]) if line["n"] else "the full model",
    ]


def _room(line: dict[str, Any], fit: dict[str, Any]) -> str:
    left = fit["target"] - line["total"]
    return f"taken, {_size(left)} free" if line["met"] else f"{_size(-left)} over"


def _size(size: int) -> str:
    return spell_size(size, digits=2)


def _parts_words(line: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {_size(line[part])}"
        for name, part in (("weights", "weights"), ("KV cache", "cache"), ("work", "work"))
    )


def _asked_words(fit: dict[str, Any]) -> str:
    bits = "weights as stored" if fit["bits"] == 16 else f"weights in {fit['bits']} bits (bitsandbytes)"
    pass_ = "prompts read in one pass" if fit["chunk"] is None else f"prompts read {fit['chunk']:,} tokens at a time"
    return f"{_of(fit)}, {bits}, {pass_}"


def _setting_words(speed: dict[str, Any]) -> str:
    return f"{_of(speed)}, measured on {speed['device']} in {speed['dtype']}"


def _of(told: dict[str, Any]) -> str:
    return f"{told['sequences']} sequence{'s' * (told['sequences'] > 1)} of {told['context']:,} tokens"
