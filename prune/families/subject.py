"""A model that is to be cut: its headers, its family, and how its layers are named and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.headers import Checkpoint, Shard, Tensor, read_checkpoint, stamp_of
from prune.checkpoint.hub import open_on_hub
from prune.checkpoint.identity import checkpoint_identity
from prune.checkpoint.layout import Layout, lay_out
from prune.checkpoint.names import LayerNames, find_layer_names
from prune.checkpoint.source import Source, locate
from prune.common.errors import CheckpointError
from prune.families.config import cut_config, extra_layers, family_of, layer_count, refuse_family
from prune.models.memory.shapes import ModelShape, shape_of

if TYPE_CHECKING:
    from prune.families.table import Family


@dataclass(frozen=True)
class Pair:
    """A tensor of the source that a cut keeps, its name after the cut, and the pruned model's tensor of that name."""

    name: str
    source: tuple[Shard, Tensor]
    pruned: tuple[Shard, Tensor] | None

    @property
    def alike(self) -> bool:
        """Whether both are there, of one dtype and shape."""
        if self.pruned is None:
            return False
        ours, theirs = self.source[1], self.pruned[1]
        return (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)


@dataclass(frozen=True)
class Remainder:
    """What a cut leaves of a model: its new config, and each shard that holds anything, with its new layout."""

    subject: Subject
    config: dict[str, Any]
    shards: list[tuple[Shard, Layout]]


@dataclass(frozen=True)
class Subject:
    """A model on the table: its headers, its family, and how its layers are named and counted."""

    source: Source
    checkpoint: Checkpoint
    family: Family
    names: LayerNames
    layers: int
    beyond: int = 0  # layers stored behind the decoder's, for multi-token prediction; they follow the kept ones

    def layouts(self, kept: Sequence[int]) -> list[tuple[Shard, Layout]]:
        """The shards that hold anything after the cut, each with its new layout.

        Args:
            kept: layers that stay.

        Raises:
            CheckpointError: the tensors of a kept layer are stored under a dropped one.
        """
        rename = self.renaming(kept)
        layouts = []
        for shard in self.checkpoint.shards:
            try:
                layout = lay_out(shard, rename)
            except ValueError as error:
                raise CheckpointError(f"{shard.path}: {error}") from None
            if layout.tensors:
                layouts.append((shard, layout))
        return layouts

    def renaming(self, kept: Sequence[int]) -> Callable[[str], str | None]:
        """From a tensor's name to its name after the cut, None for those that go."""
        numbers = {layer: number for number, layer in enumerate(kept)}
        numbers |= {self.layers + more: len(kept) + more for more in range(self.beyond)}
        return lambda name: self.names.renamed(name, numbers)

    def pairs(self, kept: Sequence[int], pruned: Checkpoint) -> Iterator[Pair]:
        """Each tensor that a cut keeps, with its counterpart in the pruned model."""
        rename = self.renaming(kept)
        stored = {tensor.name: (shard, tensor) for shard in pruned.shards for tensor in shard.tensors}
        for shard in self.checkpoint.shards:
            for tensor in shard.tensors:
                name = rename(tensor.name)
                if name is not None:
                    yield Pair(name, (shard, tensor), stored.get(name))

    def unchanged(self) -> bool:
        """Whether the shards that were read here are still the same files."""
        shards = [shard for shard in self.checkpoint.shards if shard.stamp is not None]
        return all(shard.stamp == stamp_of(shard.path) for shard in shards)

    def identity(self) -> dict[str, Any]:
        """`{"config_sha256", "shards": {file: header sha256}}`"""
        return checkpoint_identity(self.checkpoint)


def open_subject(model: str | Path, *, revision: str | None = None, carry_code: bool = False) -> Subject:
    """Locate a model, read its headers, and find its layers. Of a hub model no weights are downloaded.

    Args:
        model: a model folder or a hub id.
        revision: branch, tag or commit of a hub id.
        carry_code: fetch a hub model's Python files too.

    Raises:
        CheckpointError: not a model, damaged, or of a family that is not known.
    """
    path = Path(model).expanduser()
    if path.is_dir() or path.is_file():
        source, absent = locate(model), None
    else:
        source, absent = open_on_hub(model, revision=revision, carry_code=carry_code)
    checkpoint = read_checkpoint(source.folder, absent=absent)
    family = family_of(checkpoint.config, source.name)
    tensors = [tensor.name for tensor in checkpoint.tensors()]
    refuse_family(checkpoint.config, family, source.name, tensors)
    names, stored = find_layer_names(tensors, family.prefixes, source.name, family.beside)
    stated = layer_count(checkpoint.config, family, source.name)
    beyond = max(stored - (stated or stored), 0)
    if stated is not None and stated != stored and not 0 < beyond <= extra_layers(checkpoint.config, family):
        raise CheckpointError(f"{source.name}: config.json counts {stated} layers, but the weights hold {stored}")
    return Subject(source, checkpoint, family, names, stored - beyond, beyond)


def new_config(subject: Subject, kept: Sequence[int], *, carry_code: bool) -> dict[str, Any]:
    """The pruned model's config.json. Without its code, a model's `auto_map` would name files that are not there."""
    new = cut_config(subject.checkpoint.config, subject.family, subject.layers, kept, subject.source.name)
    if not carry_code:
        new.pop("auto_map", None)
    return new


def remainder(subject: Subject, kept: Sequence[int], *, carry_code: bool) -> Remainder:
    """What is left of a model of which the layers `kept` stay."""
    return Remainder(subject, new_config(subject, kept, carry_code=carry_code), subject.layouts(kept))


def read_shape(model: str | Path, *, revision: str | None = None) -> ModelShape:
    """The shape of a model in a folder, or of a hub model, whose weights are not fetched.

    Raises:
        CheckpointError: no model, one of a family that is not known, or one whose weights are packed.
    """
    subject = open_subject(model, revision=revision)
    return shape_of(
        subject.checkpoint,
        subject.names.layer,
        name=subject.source.name,
        layers=subject.layers,
        section=subject.family.section or "",
        transposed=subject.family.transposed,
    )
