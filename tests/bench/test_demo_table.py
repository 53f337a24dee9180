"""README's first table, of a planted comparison."""

from bench.demo_table import table
from tests.support.reports import write_bill


def test_gains_stand_above_what_they_cost(tmp_path):
    lines = table(write_bill(tmp_path / "bill", n=60, thinking=False))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["change against the full model", "pruned", "healed"]
    assert {len(row) for row in cells} == {3}
    names = [row[0] for row in cells[2:]]
    assert names[:3] == [
        "weights (full 513 MiB)",
        "KV cache, bytes a token (full 46,080)",
        "peak memory (full 546 MiB)",
    ]
    assert cells[2][1:] == ["-20 %", "-20 %"]
    assert names[3].startswith("reading a prompt, tokens a second (full 4")
    assert cells[6][1].startswith("1.2")
    assert names[5].startswith("wiki prose, nats per token (full 3.")
    assert any(name.startswith("mathematics, generation: answer NLL in bits") for name in names)


def test_without_gains_there_are_costs_alone(tmp_path):
    lines = table(write_bill(tmp_path / "bill", n=60, thinking=False, gains=False))
    assert lines[2].startswith("| wiki prose")
