"""One walk through a model that does not fit: each layer is read once, for all batches and for all who share the walk.

As `prune.models.walks.walking` goes through a loaded model: a *route* is one way up through the layers, and routes that
have done the same so far share their state. There a batch goes through all layers before the next one comes; here all
batches go through a layer before it is dropped, so that the model's files are read once. The model's own forward pass
supplies masks and positions anew for each batch and layer; the layers it would run are passed over.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from prune.checkpoint.source import Source
from prune.common.errors import RegrowthError
from prune.common.machine.memory import available
from prune.common.sizes import spell_size
from prune.models.at_once import STATES_SHARE
from prune.models.loading import forward_takes, text_config
from prune.models.walks.hooks import state_of
from prune.models.walks.layer_files import LayerFiles
from prune.models.walks.walking import DROP, Call, Route, branches, picked_logits, standing_in

Inputs = Mapping[str, torch.Tensor]  # what the decoder takes: input_ids (B, T), and attention_mask or position_ids
See = Callable[[int, int, "torch.Tensor | None", torch.Tensor], None]
Finish = Callable[[torch.Tensor], torch.Tensor]
Dress = Callable[[str, int, Any], AbstractContextManager["Finish | None"]]
Given = Iterable[tuple[Route, Iterable[torch.Tensor]]]


class Layerwise(LayerFiles):
    """A causal language model whose layers are run one at a time, on states that are kept here.

    What it has in common with `prune.models.walks.walking.Walk`: `takes_positions`, `vocabulary` and `logits`.
    """

    def __init__(self, source: Source, *, cap: int | None = None, **options: Any) -> None:
        """
        Args:
            cap: bytes that count as the memory there is, for states too; what the machine has if None.
            options: as `LayerFiles` takes them.
        """
        super().__init__(source, **options)
        self.cap = cap
        self.takes_positions = forward_takes(self.model, "logits_to_keep")
        head = self.model.get_output_embeddings()
        self.vocabulary = 0 if head is None else int(head.weight.shape[0])
        self.width = int(text_config(self.model.config).hidden_size)
        self._answer: Callable[[Call, torch.Tensor], torch.Tensor] = lambda _call, state: state
        self._rest: tuple[Any, ...] | None = None  # what a layer returns behind its state, if it returns a tuple

    def standing_in(self) -> AbstractContextManager[None]:
        """While the block runs, the layers wait for `embed`, `run` and `logits` to tell what they answer."""
        return standing_in(self.layers, self._reply)

    def embed(self, inputs: Inputs) -> torch.Tensor:
        """x[0], (B, T, D); within `embeddings`."""
        seen: list[torch.Tensor] = []

        def answer(call: Call, state: torch.Tensor) -> torch.Tensor:
            if call.layer == 0:
                seen.append(state)
            return state

        self._pass(answer, **self._moved(inputs))
        if not seen:
            raise RegrowthError(f"{type(self.model).__name__} does not run its layers in turn")
        return seen[0]

    def run(
        self, index: int, inputs: Inputs, states: Sequence[torch.Tensor], finish: Finish | None = None
    ) -> list[torch.Tensor]:
        """Layer `index`, which has its weights now, on some of its inputs (B, T, D): all of one batch, of any route.

        Args:
            finish: what is done to each of its outputs, before the next one is made.
        """
        outputs: list[torch.Tensor] = []

        def answer(call: Call, state: torch.Tensor) -> torch.Tensor:
            if call.layer == index:
                for given in states:
                    out = call.run(given)
                    self._rest = tuple(out[1:]) if isinstance(out, tuple | list) else None
                    outputs.append(state_of(out) if finish is None else finish(state_of(out)))
            return state

        self._pass(answer, **self._blank(inputs, states[0]))
        return outputs

    def call(self, index: int, inputs: Inputs, state: torch.Tensor) -> Call:
        """How the model calls layer `index` on a batch, whose state (B, T, D) gives the shape alone."""
        calls: list[Call] = []

        def answer(call: Call, given: torch.Tensor) -> torch.Tensor:
            if call.layer == index:
                calls.append(call)
            return given

        self._pass(answer, **self._blank(inputs, state))
        return calls[0]

    def hidden(self, state: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """A last layer's output, (B, T, D), after the final norm."""
        given = self._blank(inputs, state)
        hidden: torch.Tensor = self._pass(self._replay(state), **given).last_hidden_state
        return hidden

    def logits(self, state: torch.Tensor, positions: torch.Tensor | None = None, **inputs: Any) -> torch.Tensor:
        """float32 logits of a last layer's output, by the model's own norm, head and caps; within `head`.

        Args:
            state: (B, T, D), for the inputs that it was made from.
            positions: positions to score, (P,); all if None.

        Returns:
            (B, P, vocabulary).
        """
        self._answer = self._replay(state)
        return picked_logits(self.model, positions, picks=self.takes_positions, **self._blank(inputs, state))

    def _replay(self, state: torch.Tensor) -> Callable[[Call, torch.Tensor], torch.Tensor]:
        last = len(self.layers) - 1
        return lambda call, given: state if call.layer == last else given

    def _pass(self, answer: Callable[[Call, torch.Tensor], torch.Tensor], **given: Any) -> Any:
        self._answer = answer
        return self.decoder(**given, use_cache=False)

    def _reply(self, call: Call, state: torch.Tensor) -> Any:
        answer = self._answer(call, state)
        return answer if self._rest is None else (answer, *self._rest)

    def _moved(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def _blank(self, inputs: Mapping[str, Any], state: torch.Tensor) -> dict[str, Any]:
        """The inputs without token ids: no embedding is loaded, and what the layers are given is not looked at."""
        rest = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
        blank = torch.zeros(1, dtype=self.dtype, device=self.device).expand(state.shape)
        return {"inputs_embeds": blank, **self._moved(rest)}


def tree_of(model: Any) -> Any:
    """The modules of a model, be it loaded or run from its files."""
    return model.model if isinstance(model, Layerwise) else model


class StatesKept:
    """Hidden states between two layers: on the device while they fit, else in memory, else in temporary files."""

    def __init__(self, files: Layerwise, shapes: Sequence[tuple[int, ...]]) -> None:
        """
        Args:
            shapes: of each batch's state.
        """
        self._shapes, self._dtype, self._files = list(shapes), files.dtype, ExitStack()
        most = 1 << 62 if files.cap is None else files.cap
        self._left = {home: STATES_SHARE * min(available(home), most) for home in dict.fromkeys([files.device, "cpu"])}

    @property
    def size(self) -> int:
        """Bytes of one set."""
        return sum(torch.Size(shape).numel() for shape in self._shapes) * self._dtype.itemsize

    def one_more(self) -> list[torch.Tensor]:
        """A tensor for each batch's state.

        Raises:
            RegrowthError: neither memory nor the folder of temporary files has room.
        """
        for home, left in self._left.items():
            if self.size <= left:
                self._left[home] -= self.size
                return [torch.empty(shape, dtype=self._dtype, device=home) for shape in self._shapes]
        sizes = [torch.Size(shape).numel() for shape in self._shapes]
        folder = self._files.enter_context(tempfile.TemporaryDirectory(prefix="regrowth-states-"))
        path = Path(folder) / "states"
        with path.open("wb") as file:  # a full disk is an error here; under a mapping it would kill the process
            try:
                os.posix_fallocate(file.fileno(), 0, self.size)
            except OSError as error:
                raise RegrowthError(
                    f"{tempfile.gettempdir()} cannot take {spell_size(self.size)} of hidden states "
                    f"({error.strerror or error}); make room there, name a larger folder in TMPDIR, or use less text"
                ) from None
        whole = torch.from_file(str(path), shared=True, size=sum(sizes), dtype=self._dtype)
        return [part.view(shape) for part, shape in zip(whole.split(sizes), self._shapes, strict=True)]

    def __enter__(self) -> StatesKept:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()


class Walked:
    """What came out of the last layer, on every route."""

    def __init__(self, files: Layerwise, groups: Sequence[tuple[list[Route], list[torch.Tensor]]]) -> None:
        self._files, self._groups = files, groups

    def states(self, batch: int) -> dict[Route, torch.Tensor]:
        """The last layer's output of one batch, (B, T, D), on the device."""
        return {
            route: state
            for routes, held in self._groups
            for state in [held[batch].to(self._files.device)]
            for route in routes
        }


@contextmanager
def walked(
    files: Layerwise,
    batches: Sequence[Inputs],
    routes: Iterable[Route],
    *,
    see: See | None = None,
    dress: Dress | None = None,
    span: range | None = None,
    given: Given | None = None,
    advance: Callable[[float], None] = lambda layers: None,
) -> Iterator[Walked]:
    """Take all batches through the layers on every route, and hand out what leaves the last one; no head is loaded.

    Args:
        batches: see `Inputs`.
        span: layers to go through; all if None.
        given: for each route every batch's state before the first of them; what the embeddings give if None. Routes
            whose states are given are taken to differ.
        see: told (layer, batch, state before, state after) of every step; layer -1 is the embeddings. What it is given
            must not be kept: it is written over.
        dress: enters a route's adapter: given its name, the layer's index and the layer with its weights, for as long
            as the layer runs so. What it yields is `run`'s `finish`.
        advance: called with 1 after each layer.
    """
    routes = list(dict.fromkeys(routes))
    shapes = [(*batch["input_ids"].shape, files.width) for batch in batches]
    with torch.no_grad(), StatesKept(files, shapes) as kept, files.standing_in():
        groups: _Groups = []
        if given is None:
            first = kept.one_more()
            groups.append((routes, first))
            with files.embeddings():
                for number, batch in enumerate(batches):
                    first[number].copy_(files.embed(batch))
                    if see is not None:
                        see(-1, number, None, first[number])
        for route, starts in given or ():
            own = kept.one_more()
            groups.append(([route], own))
            for place, start in zip(own, starts, strict=True):
                place.copy_(start)
        span = range(len(files.layers)) if span is None else span
        needed = [i for i in span if any(route.at(i)[0] != DROP for route in routes)]
        with closing(files.each(needed)) as layers:
            for index, layer in layers:
                groups, steps = _parted(groups, index, kept)
                for name, moves in steps.items():
                    with nullcontext() if name is None or dress is None else dress(name, index, layer) as finish:
                        for number, batch in enumerate(batches):
                            before = [source[number].to(files.device) for source, _ in moves]
                            after = files.run(index, batch, before, finish)
                            for (_, goal), entered, left in zip(moves, before, after, strict=True):
                                if see is not None:
                                    see(index, number, entered, left)
                                goal[number].copy_(left)
                advance(1)
        yield Walked(files, groups)


_Groups = list[tuple[list[Route], list[torch.Tensor]]]
_Moves = list[tuple[list[torch.Tensor], list[torch.Tensor]]]  # from whose states to whose


def _parted(groups: _Groups, index: int, kept: StatesKept) -> tuple[_Groups, dict[str | None, _Moves]]:
    """The groups of routes that are still one after a layer, and what has to be run for that: by adapter, None last.

    The last branch of a group takes over its states, which are then written in place; every other gets its own.
    """
    after: _Groups = []
    steps: dict[str | None, _Moves] = {}
    for routes, held in groups:
        ways = branches(routes, index)
        dropped = any(what == DROP for what, _ in ways)
        for place, ((what, adapter), some) in enumerate(ways.items()):
            if what == DROP:
                after.append((some, held))
                continue
            goal = kept.one_more() if dropped or place + 1 < len(ways) else held
            after.append((some, goal))
            steps.setdefault(adapter, []).append((held, goal))
    order = sorted(steps, key=lambda adapter: (adapter is None, adapter or ""))
    return after, {adapter: steps[adapter] for adapter in order}
