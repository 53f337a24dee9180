"""Attention with its weights exposed: where a model's heads are, and what each one does at a step of an answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from prune.common.errors import RegrowthError
from prune.models.loading import decoder_layers

EXPOSED = "regrowth_exposed"  # the name by which transformers knows our attention function

# What is called with (module, weights, output, values, mask) after each exposed attention; None: nothing is listening.
_listen: Callable[..., None] | None = None


@dataclass(frozen=True)
class Site:
    """The attention of one layer.

    Attributes:
        layer: 0-based.
        module: the attention module.
        projection: the linear module that takes the heads' outputs side by side, and adds them to the stream.
        after: what the projection's output passes before it is added, such as Gemma's norm; None for nothing.
        heads: how many.
        width: of one head's output.
    """

    layer: int
    module: torch.nn.Module
    projection: torch.nn.Module
    after: torch.nn.Module | None
    heads: int
    width: int

    def pull(self, upward: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
        """How much a head's output counts, element by element: what is added to the stream counts `upward`, (B, D).

        Args:
            projected: the projection's output at this step, (B, D), around which `after` is taken to be linear.

        Returns:
            (B, heads, width).
        """
        if self.after is not None:
            upward = _pull_through(self.after, projected, upward)
        if type(self.projection) is torch.nn.Linear:
            pulled = upward @ self.projection.weight
        else:
            blank = upward.new_zeros(len(upward), self.heads * self.width)
            pulled = _pull_through(self.projection, blank, upward)
        return pulled.view(len(upward), self.heads, self.width)


def _pull_through(module: torch.nn.Module, at: torch.Tensor, upward: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        return torch.autograd.grad(module(at), at, upward)[0]


def find_sites(model: Any) -> list[Site]:
    """Where a model's heads are, found by running it on two tokens; layers without attention have none.

    Raises:
        RegrowthError: no layer shows attention weights, or a layer's output projection cannot be told.
    """
    layers = decoder_layers(model)
    layer_of = {id(module): number for number, layer in enumerate(layers) for module in layer.modules()}
    found: dict[int, dict[str, Any]] = {}
    open_site: dict[str, Any] = {}

    def on_attention(module: torch.nn.Module, _weights: Any, output: torch.Tensor, *_: Any) -> None:
        number = layer_of.get(id(module))
        if number is None:
            return
        if number in found:
            raise RegrowthError(f"layer {number} has two attentions; only one that looks back at the text is supported")
        open_site.clear()
        open_site.update(layer=number, module=module, heads=output.shape[2], width=output.shape[3])

    def before(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        given = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if given is None or not open_site:
            return
        if "projection" not in open_site and _is_matrix(module):
            if given.shape[-1] == open_site["heads"] * open_site["width"]:
                open_site.update(projection=module)
                found[open_site["layer"]] = open_site | {"after": None}
        elif open_site.get("output") is given and not isinstance(module, torch.nn.Dropout):
            found[open_site["layer"]]["after"] = module
            open_site.clear()

    def behind(module: torch.nn.Module, _args: Any, output: Any) -> None:
        if open_site.get("projection") is module:
            open_site["output"] = output

    handles = []
    for module in (module for layer in layers for module in layer.modules() if module is not layer):
        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(behind)]
    try:
        with torch.no_grad(), exposing(model), listening(on_attention):
            model(input_ids=torch.ones(1, 2, dtype=torch.int64, device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise RegrowthError(
            f"{type(model).__name__} shows no attention weights: its layers are recurrent, or it has an attention of "
            "its own that transformers cannot replace; its heads cannot be measured"
        )
    return [Site(**found[number]) for number in sorted(found)]


def _is_matrix(module: torch.nn.Module) -> bool:
    """Whether it is a linear module: of torch, GPT-2's Conv1D, of bitsandbytes, or one of these with an adapter."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 2


@contextmanager
def exposing(model: Any) -> Iterator[None]:
    """While the block runs, the model computes attention by its own plain function, which shows the weights."""
    before = model.config._attn_implementation
    _register()
    with suppress(ValueError):  # a part that cannot be switched, such as a vision tower; nothing is heard from it
        model.set_attn_implementation(EXPOSED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def listening(listener: Callable[..., None]) -> Iterator[None]:
    """While the block runs, `listener` is called after each exposed attention.

    It is handed the module, the weights (B, heads, Q, K), the output (B, Q, heads, width), the values that were
    attended to, (B, groups, K, width), and the mask, or None, that was added to the scores.
    """
    global _listen
    before, _listen = _listen, listener
    try:
        yield
    finally:
        _listen = before


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(EXPOSED, _exposed_attention)
    AttentionMaskInterface.register(EXPOSED, eager_mask)


def _exposed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the model's family computes by default: its own function, with its own caps, sinks and biases."""
    plain = _plain_attention(module)
    given = (query, key, value, attention_mask)
    groups = key.shape[1]
    if query.shape[2] > 1 or groups == query.shape[1] or not _can_pack(plain, module, given, options):
        output, weights = plain(module, *given, **options)
    else:
        output, weights = _packed(plain, module, given, options)
    if _listen is not None and weights is not None:
        _listen(module, weights, output, value, attention_mask)
    return output, weights


class _Ungrouped:
    """An attention module as seen by a function that is not to repeat keys and values for each head of a group."""

    num_key_value_groups = 1

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _packed(plain: Any, module: torch.nn.Module, given: Any, options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for one query, whose heads of a group stand in the place of queries: nothing is copied."""
    query, key, value, mask = given
    batch, heads, _, width = query.shape
    query = query.reshape(batch, key.shape[1], -1, width)
    output, weights = plain(_Ungrouped(module), query, key, value, mask, **options)
    output = output.transpose(1, 2).reshape(batch, 1, heads, -1)
    return output, weights.reshape(batch, heads, 1, -1)


def _can_pack(plain: Any, module: torch.nn.Module, given: Any, options: Any) -> bool:
    """Whether the family's function gives the same when packed; tried once for each module."""
    if (known := _packable.get(module)) is None:
        expected = plain(module, *given, **options)
        try:
            packed = _packed(plain, module, given, options)
        except (RuntimeError, AttributeError, TypeError):  # something of each head, such as sinks
            packed = None
        known = packed is not None and all(_agree(*pair) for pair in zip(expected, packed, strict=True))
        _packable[module] = known
    return known


def _agree(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    return torch.allclose(a, b, atol=1e-2 if a.dtype.itemsize < 4 else 1e-5, rtol=1e-2)


_packable: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def _plain_attention(module: torch.nn.Module) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
    for kind in type(module).__mro__:
        home = sys.modules.get(kind.__module__)
        if (function := getattr(home, "eager_attention_forward", None)) is not None:
            plain: Callable[..., tuple[torch.Tensor, torch.Tensor | None]] = function
            return plain
    raise RegrowthError(f"{type(module).__name__} has no plain attention, so its weights cannot be seen")
