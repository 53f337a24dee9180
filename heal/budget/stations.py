"""Stations that go layer by layer where they must, and healing: what each takes, and its way on a card.

Pure arithmetic. Hours are an expectation, from what a station reads, runs through the model and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from heal.budget.cards import CPU
from heal.budget.cost import Job, adapter_bytes, flops_per_token, needed, usable
from heal.budget.document import Gpu, Station, StationWay, Way
from heal.budget.passes import choose_pass
from heal.defaults import HELD_OUT_TOKENS
from heal.settings import CHOICE_TOKENS, PatchSettings
from prune.choosing.settings import CheckSettings
from prune.common.checked import Checked
from prune.common.sizes import counted
from prune.models.at_once import COMPARED_BYTES, SCAN_TOKENS, STATES_SHARE, WALK_TOKENS, WEIGHTS_SHARE, at_once
from prune.models.memory.footprint import (
    GIB,
    feed_forward_width,
    forward_bytes,
    forward_flops,
    head_flops,
    resident_bytes,
    state_bytes,
    streamed_bytes,
)
from prune.models.memory.shapes import LayerShape, ModelShape
from prune.scanning.settings import ScanSettings

READ, WRITE = 2e9, 1e9  # bytes a second of a disk
_CHECK_PASSES, _CHECK_WALKS = 1.5, 3  # of the full model over the check's text; walks through the files
_CHECK_VARIANTS = 6  # that wait between two layers in the last walk: the full model, four finalists, the own choice
_CHECK_SHARE = 0.3  # of the check's text that each of them then runs, at most
_PATCH_PASSES = 6  # a candidate runs the layers above the cut on the text that chooses
_CANDIDATES = 3  # objectives, each with sums of its own
_JUDGED = 7  # candidates that share a walk, each with states of its own
_GRAMS = 2  # sums in float64: of one objective, and of one candidate, which is solved in their place


@dataclass(frozen=True)
class Amounts(Checked):
    """How much text the stations run: what the commands take if not told."""

    samples: int = ScanSettings.samples
    sample_length: int = ScanSettings.length  # tokens
    every_token: bool = False  # a scan keeps the states of all tokens
    check_tokens: int = CheckSettings.tokens  # that candidates for a cut are run on
    patch_tokens: int = 25_000  # to fit, and a quarter more to choose by
    patch_length: int = PatchSettings.length  # tokens a row
    patch_rows: int = PatchSettings.batch_size  # a forward pass
    held_out_tokens: int = HELD_OUT_TOKENS  # that a merge measures both bases on
    questions: int = 2000  # asked of each model
    question_tokens: int = 120  # of each; its choices share them
    answers: int = 500  # that are written, of the questions
    answer_tokens: int = 16  # of each; short, as without slow thinking
    batch_size: int = 8  # answers, or needles, at a time
    needle_trials: int = 0  # facts that are asked for in a long text
    needle_tokens: int = 0  # of that text
    models: int = 3  # that a comparison asks
    cuts: int = 16  # that a sweep asks; each runs half of the layers anew
    tasks_too: bool = False  # lm-eval's tasks are asked as well, and not counted: their length is not known before


@dataclass(frozen=True)
class Chain:
    """What is asked.

    Attributes:
        shape: of the full model; of one that is cut where no more is known.
        job: healing, with its rows a pass and checkpointing; what is not chosen is as asked.
        tokens: to heal on.
        rows: of a step.
        choose_rows, choose_checkpointing: on each card anew.
        cut_comes: the model is whole: scan, cut and sweep are stations.
        whole_known: the full model is there: patch and comparison are stations.
        dtype, heal_dtype: `--dtype` of all else, and of healing.
        in_4bit: `--load-in-4bit` of questions.
    """

    shape: ModelShape
    job: Job
    tokens: int
    rows: int
    choose_rows: bool = False
    choose_checkpointing: bool = False
    cut_comes: bool = True
    whole_known: bool = True
    dtype: str = "auto"
    heal_dtype: str = "auto"
    in_4bit: bool = False
    amounts: Amounts = Amounts()


Work = Callable[[Gpu, int], int]  # bytes on a card of values that are so much wider than bf16


@dataclass(frozen=True)
class Line:
    """A station, and how to tell its way on a card."""

    station: Station
    on: Callable[[Gpu], StationWay]


def room_of(gpu: Gpu) -> int:
    """Bytes for tensors on a card, or in the memory that is free."""
    return gpu.memory if gpu.name == CPU else usable(gpu.memory)


def scan_line(chain: Chain) -> Line:
    """One pass of the text. Of a sample its last token's states are kept, of a token its products."""
    shape, amounts = chain.shape, chain.amounts
    tokens, inputs = amounts.samples * amounts.sample_length, len(shape.layers) + 1
    station = Station(
        name="scan",
        command="prune scan",
        disk=24 * len(shape.layers) ** 2,
        states=state_bytes(shape, tokens),
        sets=1,
        work=f"{amounts.samples:,} samples of {amounts.sample_length} tokens, one pass; the model read once",
    )
    flops = tokens * forward_flops(shape, shape.layers, amounts.sample_length)

    def work(gpu: Gpu, wide: int) -> int:
        tokens = max(at_once(SCAN_TOKENS, kind_of(gpu)), amounts.sample_length)
        return wide * forward_bytes(shape, shape.layers, tokens)

    def standing(gpu: Gpu, wide: int) -> int:
        # until the end: in memory a batch is done before the next one comes
        kept = tokens if amounts.every_token else amounts.samples
        products = 2 * 4 * inputs * tokens  # squares, and products with the layer before, in fp32
        return states_on(gpu, station, wide) + wide * state_bytes(shape, kept * inputs) + products

    return Line(station, _by_layer(chain, station, shape.layers, flops, work, reads=1, standing=standing))


def cut_line(chain: Chain, pruned: int) -> Line:
    """The check of a few candidates, and a copy of what stays."""
    shape, amounts = chain.shape, chain.amounts
    station = Station(
        name="cut",
        command="prune cut",
        disk=pruned,
        states=_CHECK_VARIANTS * state_bytes(shape, int(_CHECK_SHARE * amounts.check_tokens)),
        sets=_CHECK_VARIANTS,
        work=f"check on {amounts.check_tokens:,} tokens, {_CHECK_PASSES} passes; what stays is copied",
    )
    each = forward_flops(shape, shape.layers, 256) + head_flops(shape)
    flops = _CHECK_PASSES * amounts.check_tokens * each

    def work(gpu: Gpu, wide: int) -> int:
        tokens = min(at_once(WALK_TOKENS, kind_of(gpu)), amounts.check_tokens)
        states = _CHECK_VARIANTS * state_bytes(shape, tokens)
        passing = wide * (forward_bytes(shape, shape.layers, tokens) + states)
        return passing + head_bytes(gpu, shape, tokens)

    return Line(station, _by_layer(chain, station, shape.layers, flops, work, reads=_CHECK_WALKS))


def patch_line(chain: Chain, pruned: int) -> Line:
    """Sums over a text, solved for a few candidates, and a copy of the cut."""
    shape, amounts = chain.shape, chain.amounts
    station = Station(
        name="patch",
        command="heal patch",
        disk=pruned,
        states=2 * state_bytes(shape, amounts.patch_tokens),
        sets=2,
        work=f"{amounts.patch_tokens:,} tokens, {_PATCH_PASSES} passes, {_CANDIDATES} Gram matrices; the cut copied",
    )
    features = max(map(feed_forward_width, shape.layers), default=0)
    solving = 8 * (_GRAMS * features * (features + shape.hidden) + 2 * features * shape.hidden)
    fitted = 2 * amounts.patch_tokens * (features + 2 * shape.hidden)
    passes = _PATCH_PASSES * (forward_flops(shape, shape.layers, amounts.patch_length) + head_flops(shape))
    flops = amounts.patch_tokens * (passes + _CANDIDATES * 2.0 * features * (features + shape.hidden))

    def work(gpu: Gpu, wide: int) -> int:
        at_once = amounts.patch_rows * amounts.patch_length
        return solving + wide * (fitted + forward_bytes(shape, shape.layers, at_once) + 2 * state_bytes(shape, at_once))

    judged = station.model_copy(update={"states": _JUDGED * state_bytes(shape, CHOICE_TOKENS), "sets": _JUDGED})

    def standing(gpu: Gpu, wide: int) -> int:
        return states_on(gpu, judged, wide)  # those of `station` are what is fitted

    by_layer = _by_layer(chain, station, shape.layers, flops, work, reads=_PATCH_PASSES, standing=standing)
    return Line(station, by_layer)


def merge_line(chain: Chain, pruned: int) -> Line:
    """Both bases measured, compared with the adapter as trained, and a copy of the cut."""
    shape, tokens, kept = chain.shape, chain.amounts.held_out_tokens, kept_of(chain)
    station = Station(
        name="merge",
        command="heal merge",
        disk=pruned,
        states=2 * state_bytes(shape, tokens),
        sets=2,
        work=f"both bases and the adapter as trained on {tokens:,} tokens, 3 passes; the cut read 4 times",
    )
    flops = 3 * tokens * (forward_flops(shape, kept, chain.job.length) + head_flops(shape))

    def work(gpu: Gpu, wide: int) -> int:
        passing = wide * forward_bytes(shape, kept, max(chain.job.tokens, chain.job.length))
        largest = max((linear.values for layer in kept for linear in layer.linears), default=0)
        making = making_bytes(kind_of(gpu), chain.job.bits) * largest
        return adapter_bytes(shape, chain.job) + passing + making + head_bytes(gpu, shape, chain.job.tokens)

    def standing(gpu: Gpu, wide: int) -> int:
        # and the merged values of one layer stand beside its own
        return states_on(gpu, station, wide) + wide * 2 * max((layer.values for layer in kept), default=0)

    trained = replace(chain, dtype=trained_in(chain.heal_dtype))
    return Line(station, _by_layer(trained, station, kept, flops, work, reads=4, standing=standing))


def making_bytes(kind: str, bits: int) -> int:
    """Bytes a value that one merged matrix takes while it is made, its stored weight among them.

    It is made in fp32, of the weight and of what is added. On a CPU bitsandbytes quantises through several copies in
    fp32: 16 bytes are handed out at once, and the process holds somewhat more. Version 0.49 takes 134 for 4 bits.

    Args:
        kind: of the device.
        bits: that the base was trained in.
    """
    return 12 if kind != "cpu" or bits == 16 else 18


def trained_in(dtype: str) -> str:
    """What `--dtype` of healing stands for, as `width` takes it; merging runs in it too."""
    return "fast" if dtype == "auto" else dtype


def kept_of(chain: Chain) -> list[LayerShape]:
    """The layers that the cut leaves."""
    return [chain.shape.layers[i] for i in chain.job.kept]


def states_on(gpu: Gpu, station: Station, wide: int) -> int:
    """Bytes of a station's hidden states that stand on a card between two layers (of a CPU, in memory).

    As `prune.models.walks.layerwise` keeps them: whole sets, while they take no more than their share of what is free.
    """
    each = wide * station.states // max(1, station.sets)
    return each * min(station.sets, int(STATES_SHARE * gpu.memory) // each) if each else 0


def _by_layer(
    chain: Chain,
    station: Station,
    layers: Sequence[LayerShape],
    flops: float,
    work: Work,
    *,
    reads: int,
    standing: Work | None = None,
) -> Callable[[Gpu], StationWay]:
    """The way of a station that goes layer by layer where it must.

    Args:
        work: bytes that a batch takes either way.
        reads: how often it reads the files, layer by layer.
        standing: bytes that stand between two layers then; the states if None.
    """
    shape, weights = chain.shape, resident_bytes(chain.shape, layers)

    def on(gpu: Gpu) -> StationWay:
        room, wide = room_of(gpu), width(gpu, chain.dtype, shape.stored_bytes, shape.values)
        passing = work(gpu, wide)
        between = states_on(gpu, station, wide) if standing is None else standing(gpu, wide)
        resident, streamed = wide * weights + passing, wide * streamed_bytes(shape) + passing + between
        way: Way = "resident" if resident <= room else "layer by layer" if streamed <= room else "none"
        needs = ""
        if way == "layer by layer" and wide * weights <= WEIGHTS_SHARE * gpu.memory:
            needs = f"--max-memory {max(1, wide * weights // GIB)}GiB"
        computing = flops / (gpu.peak * gpu.share)
        reading = weights / READ * (1 if way == "resident" else reads)
        # a layer is read while another one computes
        seconds = computing + reading if way == "resident" else max(computing, reading)
        memory = resident if way == "resident" else streamed
        return way_of(station, way, memory, seconds + station.disk / WRITE, needs=needs)

    return on


def heal_line(chain: Chain) -> Line:
    """Healing as asked, or as it is chosen for a card."""
    shape, job = chain.shape, chain.job
    adapter = adapter_bytes(shape, job)
    kept = kept_of(chain)
    station = Station(
        name="heal",
        command=f"heal {job.method}",
        disk=adapter + 3 * 3 * adapter,  # two checkpoints stay, a third is being written: weights and two moments each
        states=0,
        sets=0,
        work=f"{chain.tokens:,} tokens in steps of {chain.rows} rows of {job.length}",
    )
    loaded = resident_bytes(shape, shape.layers if job.method == "distill" else kept)

    def on(gpu: Gpu) -> StationWay:
        asked = job_on(gpu, chain)
        chosen = chosen_job(chain, asked, gpu)
        needs = ""
        if chosen is None:
            chosen, needs = _least_change(chain, asked, gpu)
        if chosen is None:
            least = asked.but(bits=4, batch_size=1, checkpointing=True)
            return way_of(station, "none", needed(shape, least), 0.0)
        rate = gpu.peak * gpu.share / flops_per_token(shape, chosen)
        seconds = chain.tokens / rate + loaded / READ + adapter / WRITE
        way: Way = "4 bits" if chosen.bits == 4 else "resident"
        return way_of(station, way, needed(shape, chosen), seconds, needs=needs, passes=_pass_words(chosen))

    return Line(station, on)


def _pass_words(job: Job) -> str:
    bits = "" if job.bits == 4 else f"{job.bits} bits, "
    return (
        f"{bits}{counted(job.batch_size, 'row')} a pass, {'checkpointing' if job.checkpointing else 'no checkpointing'}"
    )


def chosen_job(chain: Chain, job: Job, gpu: Gpu) -> Job | None:
    """The job as it would run on a card: as asked, or chosen for it; None where that does not fit."""
    rows = None if chain.choose_rows else job.batch_size
    checkpointing = None if chain.choose_checkpointing else job.checkpointing
    return choose_pass(chain.shape, job, chain.rows, room_of(gpu), batch_size=rows, checkpointing=checkpointing)


def _least_change(chain: Chain, job: Job, gpu: Gpu) -> tuple[Job | None, str]:
    """A job that fits where the one asked for does not, and the options that it asks for."""
    for bits in dict.fromkeys((job.bits, 4)):
        fewer = job.but(bits=bits)
        found = choose_pass(chain.shape, fewer, chain.rows, room_of(gpu))
        if found is not None:
            words = [f"--bits {bits}"] if bits != job.bits else []
            if found.batch_size != job.batch_size and not chain.choose_rows:
                words.append(f"--batch-size {found.batch_size}")
                if chain.rows % found.batch_size == 0 and chain.rows != found.batch_size:
                    words.append(f"--accumulate {chain.rows // found.batch_size}")  # the rows of a step stay
            if found.checkpointing != job.checkpointing and not chain.choose_checkpointing:
                words.append(f"--checkpointing {'on' if found.checkpointing else 'off'}")
            return found, " ".join(words)
    return None, ""


def way_of(
    station: Station, way: Way, memory: int, seconds: float, *, needs: str = "", passes: str | None = None
) -> StationWay:
    """A station's way that takes so many bytes and seconds; no hours where it does not fit."""
    hours = None if way == "none" else seconds / 3600
    return StationWay(name=station.name, way=way, passes=passes, memory=memory, hours=hours, needs=needs)


def kind_of(gpu: Gpu) -> str:
    """The kind of device, as `prune.models.at_once` knows it."""
    return "cpu" if gpu.name == CPU else "cuda"


def head_bytes(gpu: Gpu, shape: ModelShape, tokens: int) -> int:
    """Bytes of the chunks of logits in fp32 that stand at once when so many tokens are compared."""
    return 4 * min(at_once(COMPARED_BYTES, kind_of(gpu)), 4 * tokens * shape.vocabulary)


def width(gpu: Gpu, dtype: str, stored: int, values: int) -> int:
    """How much wider than bf16 the values are that a model is run in: 2 in float32.

    Args:
        dtype: as `prune.models.precision.pick_dtype` takes it. `auto` is the type that the files are stored in.
        stored, values: of the model: bytes of its files, and how many values they hold.
    """
    if dtype in ("float32", "fp32"):
        return 2
    if dtype not in ("auto", "fast"):
        return 1
    stored_wide = dtype == "auto" and stored >= 3 * values
    return 2 if stored_wide or not gpu.bfloat16 else 1


def job_on(gpu: Gpu, chain: Chain) -> Job:
    """The job with the widths of a card's numbers."""
    shape = chain.shape
    wide = width(gpu, trained_in(chain.heal_dtype), shape.stored_bytes, shape.values)
    return chain.job.but(cuda=gpu.name != CPU, wide=wide > 1)
