"""EK-FAC influence of documents on queries by the LoRA weights, computed by dattri-llm (arXiv 2609.38767)."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heal.text.packing import Row, collate
from prune.common.errors import RegrowthError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

DAMPING = 0.1  # times the mean eigenvalue of a layer, as Grosse et al. have it (arXiv 2308.03296)
_PACKAGE = "dattri_llm"
_FIT = 2  # passes over the documents: covariances, eigenvalues; another one for the scores of each group of queries
_QUERY_BYTES = 2 << 30  # of the gradients of queries that are held at a time on a CPU; a quarter of what a GPU has free


def check_installed() -> None:
    """Raise RegrowthError where dattri-llm is missing."""
    if find_spec(_PACKAGE) is None:
        raise RegrowthError("EK-FAC needs dattri-llm; get it with: pip install 'regrowth[influence]'")


def rows_to_run(documents: int, queries: int, model: PeftModel) -> int:
    """How many forward and backward passes the scores take; `ek_fac_scores` tells of each."""
    return (_FIT + -(-queries // _queries_at_once(model))) * documents + queries


def ek_fac_scores(
    model: PeftModel,
    documents: Sequence[Row],
    queries: Sequence[Row],
    *,
    advance: Callable[[float], None] = lambda rows: None,
) -> NDArray[np.float64]:
    """Influence <g_q, (F + damping I)^-1 g_d> of each document on each query, shape (D, Q).

    g is the gradient of a row's mean loss per token, in nats, by the LoRA weights. F is the Fisher matrix of the
    documents' gradients in EK-FAC's form (George et al., arXiv 1806.03884; Grosse et al., arXiv 2308.03296). It has a
    block for each LoRA matrix. A block is diagonal in the eigenbasis of the covariances of the matrix's inputs and of
    the gradients of its outputs, and holds the mean squares of the documents' gradients there. A score above 0 means
    that learning the document lowers the query's loss. It is not scaled by the lengths of the gradients.

    The base may be in 16, 8 or 4 bits: frozen layers are passed over, and only LoRA's own matrices are watched. With
    B = 0, as in a fresh adapter, A has no gradient, and is left out. Rows are run one by one, without padding. A row
    that stands twice among the documents is measured once. The fit lies in a temporary folder while it lasts. It takes
    d x d numbers for each side d of a LoRA matrix, and time like d^3, however few the documents are.

    Args:
        model: with its adapter, on the CPU or on the first GPU, its forward pass made ready by
            `heal.models.lm_head.attach_loss`.
        documents: D rows.
        queries: Q rows.
        advance: told of each row that is run, see `rows_to_run`.

    Raises:
        RegrowthError: dattri-llm is missing; the model stands on another device; a score is no finite number.
    """
    check_installed()
    from dattri_llm import AttributionArguments, AttributionTask, EKFACAttributor, HookManagerConfig

    device = next(model.parameters()).device
    if device.type not in ("cpu", "cuda") or (device.index or 0) != 0:
        raise RegrowthError(
            f"EK-FAC runs on the CPU or on the first GPU, and the model is on {device}; use --device cpu"
        )

    def loss(model: Any, batch: dict[str, Any]) -> Any:
        advance(1)
        return model(**batch)["loss"]

    layers = dict.fromkeys(_watched(model), "linear_io")
    keys = [(row.tokens.tobytes(), row.labels.tobytes()) for row in documents]
    unlike = dict(zip(keys, documents, strict=True))
    alone, place = list(unlike.values()), {key: number for number, key in enumerate(unlike)}
    columns = []
    group = _queries_at_once(model)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.filterwarnings("ignore", "Full backward hook is firing")  # the first A reads what has no gradient
        arguments = AttributionArguments(
            output_dir=folder,  # it keeps its scores there too
            per_device_train_batch_size=1,
            per_device_eval_batch_size=1,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=False,
        )
        attributor = EKFACAttributor(arguments, task=AttributionTask(loss, model))
        for start in range(0, len(queries), group):
            found = attributor.attribute(
                _Rows(alone),
                _Rows(queries[start : start + group]),
                hook_config=HookManagerConfig(hook_types=layers),
                damping=DAMPING,
                relative_damping=True,
                fisher_dir=folder,  # the fit of the first group serves all
                factor_cache_residency="tiered",  # its matrices wait in the memory of the host, or on its disk
            )
            columns.append(found.scores.double().cpu().numpy())
    scores = np.concatenate(columns, axis=1)
    if scores.shape != (len(alone), len(queries)) or not np.isfinite(scores).all():
        raise RegrowthError("EK-FAC gave a score that is no finite number; try --dtype float32")
    return np.asarray(scores[[place[key] for key in keys]])


def _queries_at_once(model: PeftModel) -> int:
    """How many queries' gradients are held at a time: they have the size of the adapter, in fp32."""
    import torch

    size = 4 * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    device = next(model.parameters()).device
    room = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else _QUERY_BYTES
    return max(1, room // max(1, size))


def _watched(model: torch.nn.Module) -> list[str]:
    """The matrices A and B of an adapter that learn and can have a gradient: that of an A is 0 where its B is.

    Raises:
        RegrowthError: there is none.
    """
    import torch

    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and (".lora_A." in name or ".lora_B." in name)
    }
    names = [
        name
        for name, module in modules.items()
        if module.weight.requires_grad
        and (".lora_B." in name or modules[name.replace(".lora_A.", ".lora_B.")].weight.any())
    ]
    if not names:
        raise RegrowthError("EK-FAC needs an adapter of LoRA matrices that are trained, and the model has none")
    return names


class _Rows:
    """Rows as a torch data set: each as what a model takes, without the first axis."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {name: tensor[0] for name, tensor in collate([self._rows[number]]).items()}
