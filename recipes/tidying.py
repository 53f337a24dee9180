"""Which outputs of a recipe are intermediates, when each is no longer read, and taking them away.

Only what a stage of this recipe made, inside the recipe's own folder, and as it was made, is ever deleted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from recipes.schema import Recipe, Stage


def words_read(stage: Stage) -> Iterator[str]:
    """The arguments and values of options of a stage that may name what it reads; of `NAME=FILE` the file too."""
    for name, value in [*enumerate(stage.arguments), *stage.options.items()]:
        if name not in stage.writes:
            for word in value if isinstance(value, list) else [value]:
                if isinstance(word, str) and word:
                    yield word
                    if behind := word.partition("=")[2]:
                        yield behind


def reads(stage: Stage, output: str) -> bool:
    """Whether a stage reads an output, or something in it."""
    return any(overlap(word, output) for word in words_read(stage))


def outputs_of(stage: Stage) -> tuple[str, ...]:
    """Where a resolved stage's results go."""
    return tuple(str(stage.options[name]) for name in stage.writes if stage.options.get(name))


def done_with(recipe: Recipe, after: int) -> Iterator[tuple[Stage, str]]:
    """Intermediates of the stages up to number `after` (0-based) that no later stage reads, each with its stage.

    An intermediate lies in the recipe's folder, and is none of its results: what `files` and `show` name, but for the
    outputs of the stages that `tidy` names.
    """
    folder = Path(str(recipe.settings["out"])).resolve()
    results = [where for where in (*recipe.files.values(), recipe.show) if where]
    for stage in recipe.stages[: after + 1]:
        for output in outputs_of(stage):
            path = Path(output).parent.resolve() / Path(output).name  # a link goes, and not what it leads to
            if Path(output).name in ("", "..") or path == folder or not path.is_relative_to(folder):
                continue
            if stage.name not in recipe.tidy and any(overlap(result, output) for result in results):
                continue
            if not any(reads(later, output) for later in recipe.stages[after + 1 :]):
                yield stage, output


def take_away(output: str) -> None:
    """Delete a file or a folder."""
    path = Path(output)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def needed_again(stages: Sequence[Stage], runs: Sequence[bool], gone: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Stages that must run again because one that runs reads what was tidied away -> the output that it reads.

    Args:
        runs: of each stage, whether it runs in any case.
        gone: by the name of a stage that does not, its outputs that were tidied away.
    """
    again: dict[str, str] = {}
    running = {stage.name for stage, will in zip(stages, runs, strict=True) if will}
    for number in range(len(stages) - 1, -1, -1):  # from the end: one that runs again may need another
        stage = stages[number]
        if stage.name in running:
            continue
        later = [other for other in stages[number + 1 :] if other.name in running]
        wanted = [output for output in gone.get(stage.name, ()) if any(reads(other, output) for other in later)]
        if wanted:
            again[stage.name] = wanted[0]
            running.add(stage.name)
    return again


def overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one lies in the other."""
    if "\0" in one or len(one) >= 4096:
        return False
    first, second = Path(one).resolve(), Path(other).resolve()
    return first.is_relative_to(second) or second.is_relative_to(first)
