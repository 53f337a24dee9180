"""What is known of a family of models: one row of the table in `prune/families/table.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prune.families.rules import Rule


@dataclass(frozen=True)
class Family:
    """One row of the table. A key with a dot (`linear_attn_config.kda_layers`) lies in a nested table of the config.

    Args:
        prefixes: what may precede a layer's number in tensor names.
        count: config keys for the number of layers, the class's own first.
        lists: one entry per layer; the kept layers' entries stay. A string counts as a list of letters.
        indices: lists of layer numbers, which follow their layers -> the number of the first layer (0 or 1).
        numbered: tables keyed by layer number, which follow their layers.
        cycles: a list repeated until all layers have an entry; it becomes one entry per kept layer.
        runs: a list in runs, `[[["global", "local"], 12]]`: the kinds of some layers, and how often they come again.
        counts: layers below the number are of one kind; it becomes the number of kept layers below it.
        ends: the number of the last layer of one kind (-1: of the model).
        tails: so many layers at the end are of one kind; it becomes the number of kept ones among them.
        periods: fields that a list makes superfluous; they go.
        strides: steps that a list of `indices` makes superfluous -> that list: of each step's layers the last is in it.
            They stay for other readers while the list still says the same, and go where it does not.
        old: keys of the above that only config.json carries: older spellings, which the class turns into others.
        steps: whether a layer has experts, where `decoder_sparse_step` and `mlp_only_layers` say it together; the list
            says it alone afterwards.
        reads: further keys that the rules read; they do not speak of layers.
        fixed: what no field can spell, in words -> the rule by which it comes out of number and config. The cut is
            refused unless every kept layer comes out as it was.
        links: likewise, for layers that read what another layer computed: the rule gives that other layer.
        root_depth: config keys that grow with the square root of the depth.
        extra: config keys that count layers beyond the decoder's, stored behind them (multi-token prediction); they
            are carried along behind the kept ones.
        plain: keys that never speak of layers, although a list in them may be as long as the model is deep.
        section: the key of the nested config that describes the decoder; None where the config is flat.
        flat: whether the section may be missing and its fields stand at the top.
        beside: prefixes of lists that hold parts of layers, each with the layer to which its number 0 belongs.
        stored: ends of tensor names that the file must hold, because without them a layer computes with its number.
        transposed: its projections are stored (in, out): the Conv1D of GPT-2.
        refused: why no cut of this family can be exact.
    """

    prefixes: tuple[str, ...] = ()
    count: tuple[str, ...] = ("num_hidden_layers",)
    lists: tuple[str, ...] = ()
    indices: Mapping[str, int] = field(default_factory=dict)
    numbered: tuple[str, ...] = ()
    cycles: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()
    periods: tuple[str, ...] = ()
    strides: Mapping[str, str] = field(default_factory=dict)
    old: tuple[str, ...] = ()
    steps: Rule | None = None
    reads: tuple[str, ...] = ()
    fixed: Mapping[str, Rule] = field(default_factory=dict)
    links: Mapping[str, Rule] = field(default_factory=dict)
    root_depth: tuple[str, ...] = ()
    extra: tuple[str, ...] = ("num_nextn_predict_layers", "num_mtp_layers")
    plain: tuple[str, ...] = ()
    section: str | None = None
    flat: bool = False
    beside: tuple[tuple[str, int], ...] = ()
    stored: tuple[str, ...] = ()
    transposed: bool = False
    refused: str | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """Keys to which transformers' config class gives a value where config.json is silent: one for a model of the
        source's depth, so it has to be known before layers go.
        """
        keys = (
            *self.lists, *self.indices, *self.cycles, *self.runs, *self.counts, *self.ends, *self.tails,
            *self.root_depth,
        )  # fmt: skip
        return (*(key for key in keys if key not in self.old), *self.reads)
