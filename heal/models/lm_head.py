"""A causal language model whose forward pass returns the loss and no logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from heal.models.losses import chunked_cross_entropy
from heal.models.packed import check_documents, decoder_inputs, told_of_documents
from heal.text.packing import count_predicted
from prune.common.errors import RegrowthError
from prune.models.loading import text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def projection(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """(N, d) states after the final norm -> (N, V) logits, as the model's own forward pass makes them.

    Beside the head itself: Gemma's soft cap, Cohere's factor and Granite's divisor.
    """
    head, config = model.get_output_embeddings(), text_config(model.config)
    cap = getattr(config, "final_logit_softcapping", None)
    factor = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0

    def project(states: torch.Tensor) -> torch.Tensor:
        logits = head(states.to(head.weight.dtype))
        if factor != 1.0 or divisor != 1.0:
            logits = logits * (factor / divisor)
        return cap * torch.tanh(logits / cap) if cap else logits

    return project


def attach_loss(model: PreTrainedModel, *, at_once: bool = True) -> None:
    """Replace the model's forward pass: `forward(input_ids, position_ids, labels, places, bounds,
    num_items_in_batch)` -> {"loss"}.

    `places` and `bounds` are what `heal.text.packing.collate_for_loss` adds, and may be left out where attention is not
    FlashAttention. The loss is the sum over labelled tokens divided by `num_items_in_batch` (their own number if None).
    It stays a forward pass of the model itself, so that what wraps a model (peft, DDP) goes on working.

    Args:
        at_once: whether to try the model now. Else the first pass without a graph does it: a model that will be put in
            shards cannot run before.

    Raises:
        RegrowthError: the model makes its logits in another way than `projection` does, or its attention does not keep
            documents apart (`check_documents`); found by trying.
    """
    project, vocabulary = projection(model), text_config(model.config).vocab_size
    untried = [] if at_once else [model.forward]
    if at_once:
        check_documents(model)
        check_head(model, project)
    decoder = model.get_decoder()

    def summed(batch: dict[str, Any], labels: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
        if untried and not torch.is_grad_enabled():
            check_documents(model)
            check_head(model, project, forward=untried.pop())
        hidden = decoder(**batch).last_hidden_state
        return chunked_cross_entropy(hidden, labels, project, vocabulary=vocabulary, places=places)

    return_loss(model, summed)


def return_loss(
    model: PreTrainedModel, summed: Callable[[dict[str, Any], torch.Tensor, torch.Tensor | None], torch.Tensor]
) -> None:
    """Replace the model's forward pass as `attach_loss` says.

    Args:
        summed: from what a decoder takes, labels (B, T) and `places`: the sum over labelled tokens.
    """

    def forward(
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
        bounds: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **_: Any,
    ) -> dict[str, torch.Tensor]:
        if labels is None:
            raise ValueError("a model made ready for healing returns a loss, and needs labels for it")
        with told_of_documents(len(input_ids), bounds):
            total = summed(decoder_inputs(model, input_ids, position_ids, bounds), labels, places)
        count = count_predicted(labels) if num_items_in_batch is None else num_items_in_batch
        return {"loss": total / count}

    model.forward = forward


@torch.no_grad()
def check_head(
    model: PreTrainedModel,
    project: Callable[[torch.Tensor], torch.Tensor],
    *,
    forward: Callable[..., Any] | None = None,
) -> None:
    """Raise RegrowthError where `project` does not give the logits that the model gives; see `attach_loss`.

    Args:
        forward: the model's own forward pass, where another one stands in its place by now.
    """
    probe = torch.arange(8, device=model.device)[None] % text_config(model.config).vocab_size
    logits = (forward or model)(input_ids=probe, use_cache=False).logits.float()
    hidden = model.get_decoder()(input_ids=probe, use_cache=False).last_hidden_state
    check_same(model, project(hidden), logits)


def check_same(model: Any, projected: torch.Tensor, logits: torch.Tensor) -> None:
    """Raise RegrowthError where what the head alone gives is not what the model gives, of one shape."""
    difference = (projected.float() - logits).abs().max().item()
    if not difference <= 1e-2 * max(1.0, logits.abs().max().item()):
        raise RegrowthError(
            f"{type(model).__name__} does not make its logits from the final states by its head alone, "
            "so its loss cannot be taken in pieces; healing does not support it yet"
        )
