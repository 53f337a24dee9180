"""`gains` in comparison.json: what each model takes and how fast it is, beside the full one."""

from __future__ import annotations

from pydantic import Field

from prune.common.files.artefact import Part

_ROUNDS = "median, least and greatest of the rounds"


class Spread(Part):
    """A number that was measured once a round."""

    median: float = Field(description="the middle one")
    low: float = Field(description="the least")
    high: float = Field(description="the greatest")


class GainRatios(Part):
    """This model's numbers as multiples of the full model's; those of time and memory are of the same round."""

    parameters: float = Field(description="below 1: fewer")
    weight_bytes: float = Field(description="below 1: fewer")
    kv_bytes_per_token: float | None = Field(description="below 1: fewer; null where the full model keeps none")
    peak_memory_bytes: Spread | None = Field(description="below 1: less; null where it was not measured")
    prefill_tokens_per_second: Spread = Field(description="above 1: faster")
    decode_tokens_per_second: Spread = Field(description="above 1: faster")


class ModelGains(Part):
    """What one model takes, and how fast it is."""

    model: str = Field(description="its label")
    parameters: int = Field(description="values of its weights, tied ones once, packed ones unpacked")
    weight_bytes: int = Field(description="bytes of these weights as they stand loaded, with the scales of packed ones")
    kv_bytes_per_token: float = Field(
        description="bytes of the cache that transformers filled, by its tokens; at `context` and `new_tokens`, where "
        "some layers keep a window or a state of fixed size"
    )
    peak_memory_bytes: Spread | None = Field(description=f"`peak` says of what; {_ROUNDS}")
    prefill_tokens_per_second: Spread = Field(description=f"tokens of the prompts read, by seconds; {_ROUNDS}")
    decode_tokens_per_second: Spread = Field(description=f"tokens written by all sequences, by seconds; {_ROUNDS}")
    ratio: GainRatios | None = Field(description="to the full model; null for it, and where it was not measured")


class Gains(Part):
    """What the cut gives, measured on the weights that were judged."""

    engine: str = Field(description="what ran the models: transformers")
    device: str = Field(description="where they ran")
    peak: str = Field(description="what the peak memory is: of the process on a CPU, of torch's allocator on a GPU")
    context: int = Field(description="tokens of a prompt, drawn at random from the vocabulary")
    new_tokens: int = Field(description="tokens written after it, one by one")
    sequences: int = Field(description="prompts at once")
    rounds: int = Field(description="how often each model had its turn, all models in turn")
    models: tuple[ModelGains, ...] = Field(
        description="the full model first; those that could not be measured are left out"
    )
    notes: tuple[str, ...] = Field(description="who was not measured, and why")

    def of(self, label: str) -> ModelGains | None:
        """Those of a model; None where it was not measured."""
        return next((each for each in self.models if each.model == label), None)
