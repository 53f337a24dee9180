"""What all comparisons found, as one Markdown table of ratios."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.reports.wording.text import counted

COSTS = {"seconds": "time", "cpu_seconds": "processor time", "peak_mib": "peak memory", "disk_mib": "disk"}
_UNITS = {"seconds": "s", "cpu_seconds": "s", "peak_mib": "MiB", "disk_mib": "MiB"}
# Of the other figures: where one is less, or more, the tool is ahead. All others are neither.
_LESS = ("seconds", "seconds_without_the_start", "mib", "nats", "bits", "lines")
_MORE = ("per_second", "won_back", "points", "accuracy")
_NOTHING = "-"

HEAD = """\
# Other tools beside Regrowth

Written by `python -m bench.peers`, which `make bench-peers` runs. Do not edit: the next run writes it anew.

The first row of a comparison is Regrowth, in seconds and MiB. Every other row is **that tool divided by Regrowth**:
3.0x in time took three times as long, 0.5x took half. Where a tool is ahead of Regrowth, the cell is bold. Figures
under `also` are no ratios.
"""
FOOT = """\
Time is wall time of the whole command, start-up included. Processor time adds up all its threads. Peak memory is what
the command and its children hold, without pages of mapped files. Disk is what it writes. Where a comparison says
rounds, time is their median and memory their greatest. A load average far above the cores means that something else
ran too: then times say little, and those of threads that wait for each other least.
"""


def write_table(folder: Path, order: Sequence[str]) -> str:
    """Write README.md of a folder of results, and return its table.

    Args:
        order: of the comparisons; each has NAME.json or NAME-PART.json.
    """
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rank = {name: number for number, name in enumerate(order)}
    found.sort(key=lambda result: rank.get(result["name"].split("-")[0], len(rank)))
    if not found:
        return "There are no results yet."
    folder.joinpath("README.md").write_text(page(found))
    return table(found)


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The whole README."""
    parts = [HEAD, table(results), "", FOOT, *(settings(result) for result in results), "", machines(results), ""]
    return "\n".join(parts)


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """All rows of all comparisons."""
    lines = [f"| job | tool | {' | '.join(COSTS.values())} | also |", "|---" * (len(COSTS) + 3) + "|"]
    for result in results:
        ours = result["rows"][0]
        for row in result["rows"]:
            job = f"{result['job']} (`{result['name']}`)" if row is ours else ""
            lines.append(f"| {' | '.join([job, row['tool'], *_cells(row, ours)])} |")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    if "not_run" in row:
        return [_NOTHING] * len(COSTS) + [f"not run: {row['not_run']}".replace("|", "/")]
    costs = [_absolute(name, row) if row is ours else _ratio(name, row, ours) for name in COSTS]
    ours_also = dict(_others(ours))
    also = [_figure(name, value, None if row is ours else ours_also.get(name)) for name, value in _others(row)]
    return [*costs, "; ".join(also)]


def _absolute(name: str, row: Mapping[str, Any]) -> str:
    return f"{_short(row[name])} {_UNITS[name]}" if name in row else _NOTHING


def _ratio(name: str, row: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    if name not in row or not ours.get(name):
        return _absolute(name, row)
    ratio = row[name] / ours[name]
    shown = f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"
    return f"**{shown}**" if float(shown[:-1]) < 1 else shown


def _others(row: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """What a row has besides costs; of what is nested, `OUTER, INNER`. An interval's ends stay with its figure."""
    found: list[tuple[str, Any]] = []
    for name, value in row.items():
        stem = name.removesuffix("_low").removesuffix("_high")
        if name in ("tool", "not_run") or (not before and name in COSTS) or (stem != name and stem in row):
            continue
        if isinstance(value, Mapping):
            found += _others(value, f"{before}{name}, ")
        else:
            ends = [row[f"{name}_{end}"] for end in ("low", "high") if f"{name}_{end}" in row]
            found.append((before + name, (value, *ends) if ends else value))
    return found


def _figure(name: str, value: Any, ours: Any) -> str:
    shown = f"{_short(value[0])} [{', '.join(map(_short, value[1:]))}]" if isinstance(value, tuple) else _short(value)
    text = f"{name.replace('_', ' ')} {shown}".replace("|", "/")
    return f"**{text}**" if _ahead(name, _middle(value), _middle(ours)) else text


def _middle(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _ahead(name: str, value: Any, ours: Any) -> bool:
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in (value, ours)):
        return False
    if name.endswith(_MORE):
        return value > ours
    return name.endswith(_LESS) and value < ours


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def settings(result: Mapping[str, Any]) -> str:
    """A line on what the tools of a comparison had in common, and on how busy the machine was."""
    common = dict(result["settings"])
    if "load_average" in result:
        common["load_average"] = result["load_average"]
    return f"- `{result['name']}`: " + "; ".join(
        f"{name.replace('_', ' ')} {_short(value)}" for name, value in common.items()
    )


def machines(results: Iterable[Mapping[str, Any]]) -> str:
    """Which machine measured which comparison."""
    found: dict[str, list[str]] = {}
    for result in results:
        machine = result["machine"]
        bf16 = "with" if machine["avx512_bf16"] else "without"
        line = (
            f"{machine['cpu']}, {counted(machine['cores'], 'core')}, {machine['memory_gib']} GiB, {bf16} bf16 "
            f"products, Python {machine['python']}"
        )
        found.setdefault(line, []).append(result["name"])
    if len(found) == 1:
        return f"Measured on: {next(iter(found))}."
    return "\n".join(f"- Measured on {line}: {', '.join(names)}." for line, names in found.items())
