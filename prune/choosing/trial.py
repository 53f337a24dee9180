"""A model and held-out text to try choices on. The text is settled at once, the model loaded when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from prune.common.errors import TextError, UsageError
from prune.common.screen.terminal import progress, screen

if TYPE_CHECKING:
    from prune.checkpoint.source import Source
    from prune.choosing.check import Check, Removal
    from prune.choosing.protecting import HeadProtection
    from prune.choosing.settings import CutSettings
    from prune.scanning.result import Scan

LENGTH = 256  # most tokens of a window of the check: many short windows say more than a few long ones
REMOVAL_SHARE = 8  # greedy removal, whose every step tries every layer, takes this part of the check's text


@dataclass(frozen=True)
class TrialText:
    """Which text to measure on: sources, the seed that orders it, and how much of it a scan has read.

    skip, skip_length: samples of that seed that the scan has read, and most tokens of each.
    """

    sources: Sequence[str]
    field: str
    seed: int
    skip: int = 0
    skip_length: int | None = None


def scanned_texts(scan: Scan) -> list[dict[str, Any]]:
    """What a scan says of each text that it read: `source`, `field`, `sha256`."""
    recorded = scan.provenance.get("text")
    texts = recorded if isinstance(recorded, list) else [recorded]
    return [text for text in texts if isinstance(text, dict) and isinstance(text.get("source"), str)]


def trial_text(scan: Scan | None, sources: Sequence[str], field: str, seed: int) -> TrialText:
    """`sources`, else what the scan says it read; of either what the scan has not read.

    Raises:
        UsageError: no text is given, and the scan's own cannot be read (any more).
    """
    from prune.text.windows import text_identity

    said = scan.provenance if scan is not None else {}
    read = [] if scan is None else scanned_texts(scan)
    spent = 0 if scan is None else int(said.get("samples_asked") or scan.samples)
    length = None if scan is None else scan.length
    if sources:
        same = [text["source"] for text in read] == list(sources) and said.get("seed") == seed
        return TrialText(list(sources), field, seed, spent if same else 0, length)
    if not read:
        raise UsageError("the choice is checked on text, and the scan names none: add --text, or --check 0")
    field = str(read[0].get("field") or field)
    for text in read:
        try:
            now = text_identity(text["source"], field)
        except (TextError, OSError):
            raise UsageError(
                f"the choice is checked on the text of the scan, but {text['source']} cannot be read here: "
                "add --text, or --check 0"
            ) from None
        if now["sha256"] != text.get("sha256"):
            spent = 0  # it has changed since: other documents come first now
    return TrialText([text["source"] for text in read], field, int(said.get("seed") or 0), spent, length)


@dataclass(frozen=True)
class Trial:
    """Measures choices on a model and on text; `dtype` is as `prune.models.precision.pick_dtype` takes it."""

    source: Source
    text: TrialText
    settings: CutSettings
    dtype: str = "auto"
    show_progress: bool = True

    @cached_property
    def streamed(self) -> bool:
        """Whether the model is run layer by layer from its files: it does not fit."""
        from prune.models.loading import pick_device
        from prune.models.precision import pick_dtype
        from prune.models.walks.layer_files import fits

        device = pick_device("auto")
        dtype = pick_dtype(self.dtype, device=device)
        return not fits(self.source, dtype, device, self.settings.scanning.max_memory)

    @cached_property
    def loaded(self) -> tuple[Any, list[list[int]], bool]:
        """The model (loaded, or to be run from its files), windows of text, and whether the scan has read none of it.

        Raises:
            CheckpointError: the model cannot be loaded, or does not fit and is of a family that is not streamed.
        """
        from prune.models.loading import load_model, load_tokenizer, pick_device
        from prune.models.precision import pick_dtype
        from prune.models.walks.layerwise import Layerwise
        from prune.text.windows import draw_held_out

        text, device, trusted = self.text, pick_device("auto"), self.settings.trust_remote_code
        if self.streamed and self.show_progress:
            screen().print(
                "The weights do not fit in memory: the check runs the model layer by layer from its files, "
                "all candidates at once."
            )
        asked = self.settings.check.tokens
        with progress("Loading the model and held-out text", None, shown=self.show_progress):
            tokenizer = load_tokenizer(self.source, trust_remote_code=trusted)
            samples, held_out = draw_held_out(
                text.sources,
                tokenizer,
                tokens=asked,
                length=LENGTH,
                seed=text.seed,
                field=text.field,
                skip=text.skip,
                skip_length=text.skip_length,
            )
            dtype = pick_dtype(self.dtype, device=device)
            options: dict[str, Any] = {"dtype": dtype, "device": device, "trust_remote_code": trusted}
            if self.streamed:
                model = Layerwise(self.source, cap=self.settings.scanning.max_memory, **options)
            else:
                model = load_model(self.source, **options)
        windows = [sample.ids for sample in samples]
        if self.show_progress and (line := short_text_warning(sum(map(len, windows)), asked)):
            screen().print(line)
        return model, windows, held_out

    def check(self, own: tuple[int, ...], candidates: Sequence[tuple[int, ...]]) -> Check:
        """Check the choice `own` against `candidates`; see `prune.choosing.check`."""
        from prune.choosing.check import check_candidates

        model, windows, _ = self.loaded
        with progress("Checking blocks on held-out text (%)", 100, shown=self.show_progress) as bar:
            return check_candidates(
                model,
                windows,
                candidates,
                own,
                finalists=self.settings.candidates,
                advance=lambda share: bar.advance(100 * share),
            )

    def removal(self, n: int, protection: HeadProtection | None, *, done: Removal | None) -> Removal:
        """Greedy removal of `n` layers on a part of the text; `done`: of fewer, to be carried on, or None."""
        from prune.choosing.check import greedy_removal

        model, windows, _ = self.loaded
        part, allow_last = list[list[int]](), self.settings.allow_last
        while len(part) < len(windows) and sum(map(len, part)) < self.settings.check.tokens // REMOVAL_SHARE:
            part.append(windows[len(part)])
        steps = n - len(done.order) if done else n
        with progress("Removing layers one at a time", steps, shown=self.show_progress) as bar:
            return greedy_removal(
                model,
                part,
                n,
                done=done,
                allow_last=allow_last,
                may_go=lambda gone: protection is None or protection.leaves_room(gone, n, allow_last),
                advance=bar.advance,
            )

    def text_facts(self) -> dict[str, Any]:
        """What a plan's evidence says of the text."""
        from prune.text.windows import text_identity

        return {
            "text": [text_identity(source, self.text.field) for source in self.text.sources],
            "seed": self.text.seed,
            "held_out": self.loaded[2],
            **({"streamed": True} if self.streamed else {}),
        }


def short_text_warning(tokens: int, asked: int) -> str:
    """One line where the held-out text is short, that says what to do; else empty."""
    from prune.text.windows import FEW_TOKENS

    if tokens >= FEW_TOKENS:
        return ""
    remedy = "raise --check-tokens" if tokens >= asked else "give more text with --text"
    return f"Warning: the check has {tokens} tokens of text, and fewer than {FEW_TOKENS:,} say little; {remedy}."
