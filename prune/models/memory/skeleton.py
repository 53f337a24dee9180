"""A model of some config without weights: on torch's meta device, where a tensor has a shape and no values.

It runs in no time and takes no memory, whatever its size, and says what transformers would hold: of weights, of keys
and values, of what comes and goes. Where a model asks for a value (does the mask hold anything back? which tokens go
to which expert?), a stand-in answers: no shape that is kept hangs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prune.common.errors import CheckpointError, first_line

_ATEN = torch.ops.aten


def skeleton(config: Any, dtype: torch.dtype, name: str, *, trust_remote_code: bool = False) -> Any:
    """The causal language model of a config, in eval mode, without values.

    Raises:
        CheckpointError: transformers cannot make one.
    """
    from transformers import AutoModelForCausalLM

    from prune.common.screen.terminal import quiet_libraries

    quiet_libraries()
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        raise CheckpointError(
            f"{name} cannot be made a causal language model without its weights ({first_line(error)})"
        ) from error
    return model.eval()


@contextmanager
def without_values(name: str, what: str) -> Iterator[None]:
    """While the block runs, what asks a tensor on the meta device for values gets a stand-in.

    Args:
        name, what: of the model, and what is to be told of it, for the message.

    Raises:
        CheckpointError: the model's class does not run so.
    """
    fused = torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.scaled_dot_product_attention = _attention
    try:
        with torch.no_grad(), _StandIns():
            yield
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        raise CheckpointError(
            f"{name}: {what} cannot be told: its class does not run without weights ({first_line(error)})"
        ) from error
    finally:
        torch.nn.functional.scaled_dot_product_attention = fused


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """What a fused kernel of attention leaves: its result, and in fp32 one sum for each query; no scores."""
    sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
    result = query.new_empty((*query.shape[:-1], value.shape[-1]))
    del sums
    return result


class _StandIns(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = _ANSWERS.get(func)
        return func(*args, **(kwargs or {})) if answer is None else answer(func, *args, **(kwargs or {}))


def _value(_func: Any, tensor: torch.Tensor) -> Any:
    """A mask that holds nothing back; a number that is there."""
    return tensor.dtype == torch.bool or (1.0 if tensor.is_floating_point() else 1)


def _places(_func: Any, tensor: torch.Tensor) -> torch.Tensor:
    """No place is other than zero."""
    return tensor.new_empty((0, tensor.dim()), dtype=torch.long)


def _picked(func: Any, tensor: torch.Tensor, indices: Any) -> torch.Tensor:
    """Picked by a mask: nothing."""
    plain: list[Any] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            plain += [tensor.new_empty((0,), dtype=torch.long)] * index.dim()
        else:
            plain.append(index)
    picked: torch.Tensor = func(tensor, plain)
    return picked


def _products(_func: Any, left: torch.Tensor, right: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Products of groups of rows with a matrix each, which torch knows in bf16 alone."""
    return left.new_empty((*left.shape[:-1], right.shape[-1]))


def _copied(func: Any, tensor: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """To a device that has values: ones."""
    device = kwargs.get("device")
    if tensor.is_meta and device is not None and torch.device(device).type != "meta":
        return torch.ones(tensor.shape, dtype=kwargs.get("dtype") or tensor.dtype, device=device)
    copied: torch.Tensor = func(tensor, **kwargs)
    return copied


def _pieces(func: Any, tensor: torch.Tensor, sizes: Any, dim: int = 0) -> Any:
    """As many pieces as were asked for: equal ones, where their sizes were stand-ins."""
    whole = tensor.shape[dim]
    if sum(sizes) != whole:
        sizes = [whole // len(sizes) + (number < whole % len(sizes)) for number in range(len(sizes))]
    return func(tensor, sizes, dim)


_ANSWERS: dict[Any, Callable[..., Any]] = {
    _ATEN._local_scalar_dense.default: _value,
    _ATEN.nonzero.default: _places,
    _ATEN.index.Tensor: _picked,
    _ATEN._grouped_mm.default: _products,
    _ATEN._to_copy.default: _copied,
    _ATEN.split_with_sizes.default: _pieces,
}
