"""How one step on a document would change the loss of a query: gradients by the LoRA weights, compared by cosine.

To first order a step along u lowers a loss with the gradient g by the learning rate times <g, u>. An optimiser like
Adam steps along u = m / (sqrt(v) + eps) rather than along the gradient itself. So the direction of a document is its
gradient over the root of Adam's second moments, and that of a query is its plain gradient, as in LESS (arXiv
2402.04333). Both are scaled to one length: else short documents, whose gradients are long, would lead.

While the weights stay as they are, Adam's v tends to the mean of the squared gradients of what it is trained on. Here
it is that mean over the first documents of the pool, which are a random part of it, and the document itself: Adam too
takes a gradient into v before it steps. The v of the warm-up would be that of weights which have moved since, and a
first pass over all of the pool would double the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from heal.ranking.methods.sketch import CountSketch
from heal.text.packing import Row, collate
from prune.common.errors import RegrowthError
from prune.common.files.resume import FinishedParts

if TYPE_CHECKING:
    from peft import PeftModel

EPS = 1e-8  # of AdamW, as healing uses it
PART = 8  # rows whose results are kept together
Gradient = list[torch.Tensor]


class LoraGradients:
    """Gradients of a row's mean loss per token, in nats, by the weights that are trained; fp32.

    Args:
        model: with its adapter, its forward pass made ready by `heal.models.lm_head.attach_loss`. Dropout is off.

    Raises:
        RegrowthError: called, where a gradient is not finite, or nothing but zeros.
    """

    def __init__(self, model: PeftModel) -> None:
        self._model = model.eval()
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    @property
    def sizes(self) -> list[int]:
        """Numbers of the weights, tensor by tensor."""
        return [weight.numel() for weight in self.weights.values()]

    def __call__(self, row: Row, name: str = "a row") -> Gradient:
        """The gradient of one row, a tensor for each of the weights; `name` is for an error."""
        batch = {key: tensor.to(self._model.device) for key, tensor in collate([row]).items()}
        with torch.enable_grad():
            loss = self._model(**batch)["loss"]
            gradient = [part.float() for part in torch.autograd.grad(loss, list(self.weights.values()))]
        length = float(torch.stack([torch.linalg.vector_norm(part) for part in gradient]).norm())
        if not np.isfinite(length) or length == 0:
            raise RegrowthError(
                f"the gradient of {name} is {'zero' if length == 0 else 'not finite'}; try --dtype float32 or --bits "
                "16, or an adapter that has learnt something"
            )
        return gradient


def second_moments(gradients: Iterable[Gradient]) -> Gradient:
    """The mean of the squared gradients: what Adam's v tends to while the weights stay as they are.

    Raises:
        ValueError: there is none.
    """
    sums: Gradient = []
    count = 0
    for gradient in gradients:
        if not sums:
            sums = [torch.zeros_like(part) for part in gradient]
        for total, part in zip(sums, gradient, strict=True):
            total.addcmul_(part, part)
        count += 1
    if not count:
        raise ValueError("the mean of no gradients")
    return [total.div_(count) for total in sums]


def with_own(moments: Gradient, gradient: Gradient, count: int) -> Gradient:
    """Second moments of `count` gradients, and of another one: no weight's step is above sqrt(count + 1) then."""
    return [v * (count / (count + 1)) + part * part / (count + 1) for v, part in zip(moments, gradient, strict=True)]


def update_direction(gradient: Gradient, moments: Gradient) -> Gradient:
    """Where Adam would step to lower the loss, but for its sign: g / (sqrt(v) + eps), part by part."""
    return [part / (v.sqrt() + EPS) for part, v in zip(gradient, moments, strict=True)]


def unit(vector: torch.Tensor) -> torch.Tensor:
    """The vector scaled to length 1."""
    return vector / torch.linalg.vector_norm(vector)


def gradient_scores(
    model: PeftModel,
    documents: Sequence[Row],
    queries: Sequence[Row],
    *,
    dimensions: int,
    moments: int,
    seed: int,
    parts: FinishedParts,
    advance: Callable[[float], None],
) -> NDArray[np.float64]:
    """The cosine of each document's update direction and each query's gradient, shape (D, Q).

    A score above 0 means that a step on the document lowers the query's loss, to first order. A text that stands in the
    pool twice is measured once.

    Args:
        documents: D rows, in an order that is random.
        queries: Q rows.
        dimensions: of the sketch.
        moments: how many documents, from the first on, the second moments are of.
        seed: of the sketch.
        parts: the scores of documents that are finished.
        advance: told of each row that is done, those of the second moments included.

    Raises:
        RegrowthError: a gradient that is not finite or nothing but zeros.
    """
    gradients = LoraGradients(model)
    sketch = CountSketch(gradients.sizes, dimensions, seed=seed, device=model.device)
    first: dict[bytes, int] = {}
    twins = [first.setdefault(row.tokens.tobytes(), number) for number, row in enumerate(documents)]
    alone = [number for number, twin in enumerate(twins) if number == twin]

    towards = []  # not kept for --resume: all together they take more room than time
    for number, query in enumerate(queries):
        towards.append(unit(sketch(gradients(query, f"query {number + 1}"))))
        advance(1)
    asked = torch.stack(towards)
    sampled = alone[:moments]
    v: Gradient = []  # of these, and made when the first document is to be measured

    def scored(number: int) -> torch.Tensor:
        if not v:
            v.extend(_moments(gradients, documents, sampled, advance))
        gradient = gradients(documents[number], f"document {number + 1}")
        own = v if number in sampled else with_own(v, gradient, len(sampled))
        return asked @ unit(sketch(update_direction(gradient, own)))

    done = []
    for start in range(0, len(alone), PART):
        some = alone[start : start + PART]
        part = parts.get(f"documents-{start}")
        if part is None:
            part = {"values": np.stack([scored(number).cpu().numpy() for number in some])}
            parts.put(f"documents-{start}", part)
        advance(len(some))
        done.append(part["values"])
    scores = np.concatenate(done)
    place = {number: row for row, number in enumerate(alone)}
    return scores[[place[twin] for twin in twins]].astype(np.float64)


def _moments(
    gradients: LoraGradients, documents: Sequence[Row], numbers: Sequence[int], advance: Callable[[float], None]
) -> Gradient:
    def each() -> Iterable[Gradient]:
        for number in numbers:
            yield gradients(documents[number], f"document {number + 1}")
            advance(1)

    return second_moments(each())
