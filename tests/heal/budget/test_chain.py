"""The chain's way on each card, rows a pass chosen for memory, and which card is here."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import heal.budget.cards as cards
from bench.chain_table import lines
from heal import BudgetQuery, Settings, plan_budget
from heal.budget.cards import GPUS, card_here, cards_here, cpu, pick_card, together
from heal.budget.chain import judge, refusals, stations
from heal.budget.cost import flops_per_token, memory_of, needed
from heal.budget.passes import choose_pass
from heal.budget.plan import settle_healing
from heal.budget.stations import Amounts, Chain, room_of
from prune.common.errors import UsageError
from prune.models.memory.footprint import GIB
from tests.support.budgets import chain_of
from tests.support.commands import succeed

CARDS = {gpu.name: gpu for gpu in GPUS}


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
    rows = lines()
    page = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    written = page.partition("| stage | 8B |")[2].splitlines()[2 : 2 + len(rows)]
    assert written == rows


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


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("method", ["qlora", "distill"])
def test_in_float32_what_is_not_quantised_is_twice_as_wide(method, cuda):
    chain = chain_of("8b", 8)
    for bits in (4, 8, 16):
        narrow, wide = (chain.job.but(method=method, bits=bits, cuda=cuda, wide=way) for way in (False, True))
        memory = memory_of(chain.shape, narrow)
        loaded = chain.shape.layers if method == "distill" else [chain.shape.layers[i] for i in chain.job.kept]
        others = 2 * (chain.shape.outside + sum(layer.other for layer in loaded))
        more = (memory.weights if bits == 16 else others) + memory.activations + max(memory.layer, memory.logits)
        assert needed(chain.shape, wide) == needed(chain.shape, narrow) + more


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


def driver(folder, monkeypatch, *rows, caps=True):
    """A driver's tool that tells of such cards: (name, MiB in all, MiB free, capability)."""
    folder.mkdir(exist_ok=True)
    lines = [f"GPU-{number}{number}aa, {', '.join(row if caps else row[:3])}" for number, row in enumerate(rows)]
    refusal = "" if caps else 'case "$1" in *compute_cap*) exit 2;; esac\n'
    tool = folder / "nvidia-smi"
    tool.write_text("#!/bin/sh\n" + refusal + "".join(f"echo '{line}'\n" for line in lines))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize("caps", [True, False])
@pytest.mark.parametrize(
    ("name", "size", "like"),
    [
        ("NVIDIA H100 80GB HBM3", "81559", "H100-80GB"),
        ("NVIDIA A10", "23028", "A10"),
        ("NVIDIA A100-SXM4-80GB", "81920", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "40960", "A100-40GB"),
        ("NVIDIA GeForce RTX 5090", "32607", "RTX-5090"),
        ("NVIDIA L40S", "46068", "L40S"),
        ("NVIDIA L4", "23034", "L4"),
        ("NVIDIA H200", "143771", "H200"),
        ("NVIDIA Quadro Something", "8192", "A100-40GB"),  # unknown: at an A100's speed
    ],
)
def test_the_card_that_is_here_is_told_by_the_driver(name, size, like, caps, tmp_path, monkeypatch):
    """Its memory is what is free, and the kind goes by all of it."""
    driver(
        tmp_path / "bin", monkeypatch, (name, size, "7000", "8.9"), ("NVIDIA Other", "1024", "900", "8.0"), caps=caps
    )
    card = card_here()
    assert (card.name, card.memory, card.here, card.bfloat16) == (name, 7000 << 20, True, True)
    assert (card.peak, card.share) == (CARDS[like].peak, CARDS[like].share)
    assert [one.name for one in cards_here()] == [name, "NVIDIA Other"]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1,0", ["L4", "A10"]), ("GPU-22", ["T4"]), ("", []), ("-1", []), ("0,7,1", ["A10"]),
        ("2, GPU-00aa", ["T4", "A10"]),
        ("no-such", []), ("GPU-", []),
    ],
)  # fmt: skip
def test_only_cards_that_a_process_may_use_are_here(visible, names, tmp_path, monkeypatch):
    rows = (("A10", "23028", "22000", "8.6"), ("L4", "23034", "20000", "8.9"), ("T4", "15360", "15000", "7.5"))
    driver(tmp_path / "bin", monkeypatch, *rows)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [card.name for card in cards_here()] == names
    assert (card_here() is None) is (not names)


def test_a_card_without_products_in_bfloat16_takes_float32(tmp_path, monkeypatch):
    driver(tmp_path / "bin", monkeypatch, ("Tesla T4", "15360", "15000", "7.5"))
    old, chain = card_here(), chain_of("8b", 8)
    assert not old.bfloat16
    new = old.model_copy(update={"bfloat16": True})
    first, second = ({way.name: way for way in judge(chain, card).stations} for card in (old, new))
    assert first["heal"].memory > second["heal"].memory
    assert (first["run"].way, second["run"].way) == ("4 bits", "resident")
    assert judge(replace(chain, heal_dtype="float32", dtype="float32"), new).stations == judge(chain, old).stations


def test_several_cards_have_the_room_of_all_at_the_speed_of_one():
    two = together([CARDS["A10"], CARDS["A10"]])
    assert (two.name, two.peak) == ("2 x A10", CARDS["A10"].peak)
    assert room_of(two) == pytest.approx(2 * room_of(CARDS["A10"]), abs=2)
    assert together([CARDS["A10"]]) == CARDS["A10"]
    assert together([CARDS["A10"], CARDS["L4"]]).name == "A10 + L4"


def test_a_model_runs_in_the_type_it_is_stored_in():
    """As `--dtype auto` has it: a checkpoint in float32 takes twice as much, but for healing, which is in bf16."""
    chain = chain_of("8b", 8)
    wide = replace(chain, shape=replace(chain.shape, stored_bytes=2 * chain.shape.stored_bytes))
    narrow, stored = (ways(one, "H200") for one in (chain, wide))
    for name in ("scan", "run", "compare", "sweep"):  # logits are in float32 either way
        assert 1.9 < stored[name].memory / narrow[name].memory <= 2
    assert stored["heal"] == narrow["heal"]
    assert ways(replace(wide, dtype="bfloat16"), "H200")["scan"].memory == narrow["scan"].memory


def test_fewer_rows_are_asked_before_nothing_is():
    many = chain_of("8b", 8, amounts=Amounts(batch_size=4096))
    few = chain_of("8b", 8, amounts=Amounts(batch_size=1))
    assert ways(many, "A10")["run"] == ways(few, "A10")["run"].model_copy(
        update={"hours": ways(many, "A10")["run"].hours}
    )
    between = chain_of("8b", 8, amounts=Amounts(batch_size=512))  # all rows fit beside 4 bits alone, fewer beside 16
    assert (ways(between, "A10")["run"].way, ways(between, "A10")["run"].needs) == ("resident", "")
    needles = chain_of("8b", 8, amounts=Amounts(needle_trials=100, needle_tokens=4096))
    plain = chain_of("8b", 8)
    assert ways(needles, "A10")["run"].memory > ways(plain, "A10")["run"].memory + GIB
    assert ways(needles, "A10")["run"].hours > ways(plain, "A10")["run"].hours
    assert ways(replace(plain, in_4bit=True), "H200")["run"].way == "4 bits"


def test_all_cores_are_counted_where_the_system_does_not_say_which_a_process_may_use(monkeypatch):
    monkeypatch.delattr(cards.os, "sched_getaffinity", raising=False)
    peaks = []
    for cores in (2, 6):
        monkeypatch.setattr(cards.os, "cpu_count", lambda cores=cores: cores)
        peaks.append(cpu().peak)
    assert peaks[1] == 3 * peaks[0] > 0


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
