"""Loss on held-out prose of a model as it is stored: what stands beside the loss of the same model in NF4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.asking.cache import AnswerStore, request_key
from eval.runs.prose import Prose, measure_prose
from eval.settings import Questions
from prune.checkpoint.source import Source
from prune.common.errors import RegrowthError, first_line
from prune.common.machine.memory import give_back
from prune.common.machine.out_of_memory import is_out_of_memory
from prune.common.screen.terminal import progress
from prune.models.loading import load_model, pick_device
from prune.models.precision import pick_dtype

_KIND = "window, as stored"


def measure_stored(
    source: Source,
    settings: Questions,
    tokenizer: Any,
    drawn: Mapping[str, list[list[int]]],
    kept: AnswerStore,
    *,
    show_progress: bool = True,
) -> tuple[dict[str, Prose], list[str]]:
    """The loss of each window on the weights as they are stored, by text, and what a reader must know.

    The model is loaded where it fits, and else run layer by layer from its files, to the same numbers. A model that
    cannot be run so is a note: what was asked in NF4 is not lost for it.

    Args:
        drawn: windows of token ids, by text.
        kept: answers of the model as it is stored; those that are new are added, and it is closed. Windows are run
            together here, so they are kept apart from those of a run on these weights, which are run one by one.
    """
    keys = {request_key(_KIND, ids): ids for some in drawn.values() for ids in some}
    new = {key: ids for key, ids in keys.items() if key not in kept}
    try:
        found = _nats(source, settings, list(new.values()), show_progress) if new else []
        for key, nats in zip(new, found, strict=True):
            kept.add(key, [float(nats)])
        losses = {name: [float(kept[request_key(_KIND, ids)][0]) for ids in some] for name, some in drawn.items()}
        return {name: measure_prose(losses[name], tokenizer, some) for name, some in drawn.items()}, []
    except (RegrowthError, MemoryError, RuntimeError) as error:
        if not isinstance(error, RegrowthError) and not is_out_of_memory(error):
            raise
        return {}, [f"what NF4 alone costs could not be measured ({first_line(error)})"]
    finally:
        kept.close()


def _nats(source: Source, settings: Questions, windows: Sequence[list[int]], show_progress: bool) -> Sequence[float]:
    """Summed NLL in nats of each window's tokens after the first."""
    from prune.models.walks.layer_files import fits
    from prune.models.walks.layerwise import Layerwise
    from prune.models.walks.variants import FULL, score_variants

    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device=device)
    give_back()  # what the model in NF4 took
    with progress("The weights as stored, on the prose", sum(map(len, windows)), shown=show_progress) as bar:
        if fits(source, dtype, device, None):
            model: Any = load_model(source, dtype=dtype, device=device)
        else:
            bar.note("layer by layer")
            model = Layerwise(source, dtype=dtype, device=device)
            model.check()
        losses: list[float] = score_variants(model, windows, [FULL], kl=False, advance=bar.advance).loss[0].tolist()
    del model
    give_back()
    return losses
