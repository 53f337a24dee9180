"""The chain's way on each card, rows a pass chosen for memory, and which card is here."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import heal.budget.cards as cards
from bench.gpu_steps.shapes import SHAPES, llama_shape
from heal import BudgetQuery, Settings, plan_budget
from heal.budget.cards import GPUS, card_here, pick_card
from heal.budget.chain import Amounts, Chain, judge, refusals, room_of, stations
from heal.budget.cost import Job, flops_per_token, kept_layers, memory_of, needed
from heal.budget.passes import choose_pass
from heal.budget.plan import settle_healing
from heal.budget.table import hours_words
from prune.common.errors import UsageError
from prune.models.footprint import GIB
from tests.support.commands import succeed

CARDS = {gpu.name: gpu for gpu in GPUS}


def chain_of(name, n, method="distill", **changes):
    shape = llama_shape(name, SHAPES[name])
    job = Job(
        method=method, kept=kept_layers(len(shape.layers), n), first=0, bits=4, role="all", rank=64, dropout=0.05,
        length=512, batch_size=4, checkpointing=True,
    )  # fmt: skip
    return Chain(shape, job, 20_000_000, 8, **changes)


def ways(chain, card):
    return {way.name: way for way in judge(chain, CARDS[card]).stations}


def test_an_8b_stands_on_24_gib_and_a_70b_goes_layer_by_layer_on_80():
    small, large = ways(chain_of("8b", 8), "RTX-4090"), ways(chain_of("70b", 32), "A100-80GB")
    assert {name for name, way in small.items() if way.way == "resident"} >= {"scan", "cut", "merge", "run", "compare"}
    assert {large[name].way for name in ("scan", "cut", "patch", "merge")} == {"layer by layer"}
    assert {large[name].way for name in ("heal", "run", "compare", "sweep")} == {"4 bits"}
    assert large["compare"].needs == "--load-in-4bit"
    for chain, card in ((small, "RTX-4090"), (large, "A100-80GB")):
        assert all(0 < way.memory <= room_of(CARDS[card]) and way.hours > 0 for way in chain.values())


@pytest.mark.parametrize("name", ["8b", "70b"])
def test_more_memory_never_takes_a_way_that_needs_less(name):
    """A way that a small card bears is borne by a larger one, or gives place to a better one."""
    order = ["none", "layer by layer", "4 bits", "resident"]
    chain = chain_of(name, 8)
    sizes = [CARDS["H100-80GB"].model_copy(update={"memory": gib * GIB}) for gib in (1, 4, 16, 24, 48, 80, 141, 400)]
    rank = [[order.index(way.way) for way in judge(chain, card).stations] for card in sizes]
    assert all(few <= many for row in zip(*rank, strict=True) for few, many in pairwise(row))
    assert set(rank[0]) == {0}
    assert all(way.way in ("resident", "4 bits") for way in judge(chain, sizes[-1]).stations)


def test_what_cannot_fit_is_one_line_that_says_what_to_change():
    chain = chain_of("70b", 32)
    lines = refusals(chain, judge(chain, CARDS["A10"]))
    assert {line.split()[0] for line in lines} == {"patch", "distill", "run", "compare", "sweep"}
    line = next(line for line in lines if line.startswith("distill"))
    assert "even with --bits 4, --batch-size 1 and --checkpointing on" in line
    assert "use heal qlora, cut more layers (--n), or take a card of more memory" in line
    assert refusals(chain, judge(chain, CARDS["H200"])) == ()


def test_healing_that_does_not_fit_as_asked_says_which_options_would():
    chain = chain_of("8b", 8)
    large = Chain(chain.shape, chain.job.but(bits=16, batch_size=8, checkpointing=False), chain.tokens, 8)
    way = ways(large, "A100-40GB")["heal"]
    assert way.way == "resident"
    assert "--checkpointing on" in way.needs or "--batch-size" in way.needs
    little = CARDS["A10"].model_copy(update={"memory": 12 * GIB})
    assert judge(large, little).stations[3].needs.startswith("--bits 4")
    free = Chain(large.shape, large.job, large.tokens, 8, choose_rows=True, choose_checkpointing=True)
    assert ways(free, "A100-40GB")["heal"].needs == ""  # what is chosen needs no option


def test_weights_that_fit_alone_are_streamed_where_the_rest_would_not():
    """The command would take them for fitting."""
    chain = chain_of("8b", 8)
    card = ways(chain, "A10")["patch"]
    assert (card.way, card.needs) == ("layer by layer", "--max-memory 14GiB")
    assert {way.needs for name, way in ways(chain, "A100-80GB").items() if name != "heal"} == {""}


def test_amounts_move_hours_and_states_and_a_cut_its_disk():
    few, many = chain_of("8b", 8), chain_of("8b", 8, amounts=Amounts(samples=10_000, sample_length=2048))
    scan = [next(one for one in stations(chain) if one.name == "scan") for chain in (few, many)]
    assert scan[1].states == 10_000 * 2048 * 4096 * 2
    assert scan[1].states > scan[0].states
    assert ways(many, "H200")["scan"].hours > 5 * ways(few, "H200")["scan"].hours
    disks = [{one.name: one.disk for one in stations(chain_of("8b", n))} for n in (4, 8)]
    layer = 2 * few.shape.layers[0].values
    for name in ("cut", "patch", "merge"):
        assert disks[0][name] - disks[1][name] == pytest.approx(4 * layer, abs=8)


def test_the_table_of_readme_is_what_is_reckoned():
    """Llama-3's shapes, healed on 20M tokens, with --batch-size auto and --checkpointing auto."""
    rows = {}
    for name, n, card in (("8b", 8, "RTX-4090"), ("70b", 32, "A100-80GB")):
        chain = chain_of(name, n, choose_rows=True, choose_checkpointing=True)
        chain = replace(chain, job=chain.job.but(length=1024, batch_size=2))
        for station, way in zip(stations(chain), judge(chain, CARDS[card]).stations, strict=True):
            row = rows.setdefault(station.command, [f"`{station.command}`"])
            row += [way.way, f"{way.memory / GIB:.1f}", f"{station.disk / GIB:.1f}", hours_words(way)]
    page = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    lines = page.partition("| station | 8B |")[2].splitlines()[2 : 2 + len(rows)]
    assert lines == ["| " + " | ".join(row) + " |" for row in rows.values()]


def test_a_cut_model_has_no_scan_before_it(tiny_llama):
    whole = plan_budget(tiny_llama, BudgetQuery(n=2, card="l4"), Settings(rank=4))
    cut = plan_budget(tiny_llama, BudgetQuery(card="l4"), Settings(rank=4))
    assert [one.name for one in whole.stations][:2] == ["scan", "cut"]
    assert "scan" not in [one.name for one in cut.stations]
    assert (whole.card, whole.gpus[0].gpu.name, whole.refused) == ("L4", "L4", ())
    assert sum(one.gpu.name == "L4" for one in whole.gpus) == 1


def test_the_fastest_pass_that_fits_and_rows_that_divide_a_step():
    chain = chain_of("8b", 8)
    shape, job, rows = chain.shape, chain.job, 12
    before = None
    for gib in (12, 16, 24, 40, 80, 140):
        found = choose_pass(shape, job, rows, gib * GIB)
        assert found is not None
        assert rows % found.batch_size == 0
        assert needed(shape, found) <= gib * GIB
        price = flops_per_token(shape, found) * (1 + 250 / found.tokens)
        assert before is None or price <= before
        before = price
    assert (found.batch_size, found.checkpointing) == (12, False)
    assert choose_pass(shape, job, rows, GIB) is None
    held = choose_pass(shape, job, rows, 140 * GIB, batch_size=3, checkpointing=True)
    assert (held.batch_size, held.checkpointing) == (3, True)


def test_in_float32_on_a_cpu_all_is_twice_as_wide():
    chain = chain_of("8b", 8)
    narrow, wide = (chain.job.but(cuda=False, wide=way) for way in (False, True))
    assert needed(chain.shape, wide) == 2 * needed(chain.shape, narrow) == 2 * memory_of(chain.shape, narrow).step


def test_auto_keeps_the_rows_of_a_step(tiny_llama):
    settings = Settings(rank=4, batch_size="auto")
    usual = settle_healing(tiny_llama, BudgetQuery(n=2, tokens="5M"), Settings(rank=4))
    free = settle_healing(tiny_llama, BudgetQuery(n=2, tokens="5M"), settings)
    assert free.rows == usual.rows == 8
    with pytest.raises(UsageError, match="--batch-size auto settles --accumulate too"):
        settle_healing(tiny_llama, BudgetQuery(n=2), Settings(rank=4, batch_size="auto", accumulate=2))


@pytest.mark.parametrize(
    ("written", "name"),
    [("h200", "H200"), ("RTX 4090", "RTX-4090"), ("A100 80GB", "A100-80GB"), ("l40s", "L40S"), ("h100", "H100-80GB")],
)
def test_cards_are_named_however_they_are_spelt(written, name):
    assert pick_card(written) == CARDS[name]
    assert pick_card(written, 5 * GIB).memory == 5 * GIB


@pytest.mark.parametrize(
    ("told", "like"),
    [
        ("NVIDIA H100 80GB HBM3, 81559", "H100-80GB"),
        ("NVIDIA A10, 23028", "A10"),
        ("NVIDIA A100-SXM4-80GB, 81920", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB, 40960", "A100-40GB"),
        ("NVIDIA GeForce RTX 5090, 32607", "RTX-5090"),
        ("NVIDIA L40S, 46068", "L40S"),
        ("NVIDIA L4, 23034", "L4"),
        ("NVIDIA H200, 143771", "H200"),
        ("NVIDIA Quadro Something, 8192", "A100-40GB"),  # unknown: at an A100's speed
    ],
)
def test_the_card_that_is_here_is_told_by_the_driver(told, like, tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{told}'\necho 'NVIDIA Another, 1024'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    card = card_here()
    assert (card.name, card.memory) == (told.split(",")[0], int(told.split()[-1]) << 20)
    assert (card.peak, card.share) == (CARDS[like].peak, CARDS[like].share)


def test_without_a_driver_or_with_a_broken_one_no_card_is_here(tmp_path, monkeypatch, tiny_llama):
    monkeypatch.setattr(cards.shutil, "which", lambda _: None)
    assert card_here() is None
    document = json.loads(succeed("heal", "budget", tiny_llama, "--n", "2", "--rank", "4", "--json").stdout)
    assert "card" not in document
    assert document["refused"] == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setattr(cards.shutil, "which", lambda _: str(tool))
    assert card_here() is None
    assert pick_card("cpu").memory > 0
