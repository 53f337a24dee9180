"""`--overwrite` replaces a folder that one command of ours wrote, of any version, and nothing else."""

import ast
from pathlib import Path

import pytest

from prune import cut, plan_cut
from prune.common.errors import RegrowthError
from prune.common.files.outputs import staged_directory
from prune.common.files.replacing import RECORDS, check_replaceable
from tests.support.checkpoints import hand_made_scan
from tests.support.commands import run

ROOT = Path(__file__).resolve().parents[3]
# Module that writes a folder -> the record that it puts there, or the name of its `marks`.
WRITERS = {
    "eval/billing/document.py": "run.json",
    "eval/comparison.py": "comparison.json",
    "eval/depth/files.py": "depth.json",
    "eval/limits/cliff.py": "cliff.json",
    "eval/limits/frontier.py": "frontier.json",
    "eval/questions/preparation.py": "manifest.json",
    "eval/sweeps/document.py": "sweep.json",
    "heal/choosing/finalists.py": "finalists.json",
    "heal/merging/adapter_only.py": "heal.json",
    "heal/merging/merge.py": "heal.json",
    "heal/patching/passing.py": "prune_plan.json",
    "heal/patching/patch.py": "heal.json",
    "heal/training/run.py": "heal.json",
    "prune/cutting/cut.py": "prune_plan.json",
    "prune/scanning/plots.py": "MARKS",
    "recipes/sample.py": "_MARKS",
}


def calls_of(path, name):
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name]


def test_every_module_that_writes_a_folder_leaves_a_record_or_names_its_marks():
    """A new writer has to be entered above, and its record among those that are known."""
    found = {}
    for room in ("prune", "heal", "eval", "recipes"):
        for path in (ROOT / room).rglob("*.py"):
            for call in calls_of(path, "staged_directory"):
                marks = [keyword.value.id for keyword in call.keywords if keyword.arg == "marks"]
                found[str(path.relative_to(ROOT))] = marks[0] if marks else None
    assert found.keys() == WRITERS.keys()
    for module, mark in WRITERS.items():
        assert found[module] == mark if mark.endswith("MARKS") else mark in RECORDS, module
    assert set(WRITERS.values()) - {"MARKS", "_MARKS"} == RECORDS


@pytest.mark.parametrize("name", sorted(RECORDS))
@pytest.mark.parametrize("version", [1, 99])
def test_what_any_version_wrote_is_replaced(tmp_path, name, version):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text(f'{{\n  "format": "regrowth.kind/{version}",\n  "more": 1\n}}\n')
    (out / "examples").mkdir()
    (out / "examples" / "mmlu.jsonl").write_text("")
    check_replaceable(out)
    (out / name).write_text('{"format": "another/1"}')
    with pytest.raises(RegrowthError, match=rf"holds ({name}|examples); give another folder"):
        check_replaceable(out)


def test_an_empty_folder_is_free_and_a_folder_of_folders_is_not(tmp_path):
    check_replaceable(tmp_path)
    (tmp_path / "src").mkdir()
    with pytest.raises(RegrowthError, match="holds src; give another folder"):
        check_replaceable(tmp_path)


def test_a_cut_and_figures_are_replaced_by_anything_of_ours(tiny_llama, tmp_path):
    """Of a model folder with all that a cut writes, and of figures, which have no record."""
    hand_made_scan().write(tmp_path / "scan.json")
    out = tmp_path / "out"
    for _ in range(2):
        cut(plan_cut(tiny_llama, n=2, start=4), out, overwrite=True, show_progress=False)
        assert (out / "prune_plan.json").exists()
        for kind in ("svg", "png"):
            words = ["plot", tmp_path / "scan.json", "--out", tmp_path / "figures", "--format", kind, "--overwrite"]
            assert run("prune", *map(str, words)).exit_code == 0
            assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {f".{kind}"}


def test_what_came_into_the_folder_meanwhile_stays(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(RegrowthError, match=r"holds thesis\.txt"), staged_directory(out, overwrite=True):
        (out / "thesis.txt").write_text("years of work")
    assert (out / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
