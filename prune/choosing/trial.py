"""What choosing on text needs: the model loaded, and held-out text for it. Used by `prune.cutting.planning`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune.common.errors import TextError, UsageError
from prune.common.terminal import progress, screen

if TYPE_CHECKING:
    from prune.checkpoint.source import Source
    from prune.choosing.check import Check
    from prune.scanning.result import Scan

LENGTH = 256  # most tokens of a window of the check: many short windows say more than a few long ones
LOSS_SHARE = 8  # greedy removal, whose every step tries every layer, takes this part of the check's text
CHECKED = 4  # candidates that are checked by default
VERIFY_TOKENS = 8192


@dataclass(frozen=True)
class Trial:
    """Where and on what to measure: the model's place, its text sources, and which of their samples are spent.

    sources, field, seed: of the text. skip, skip_length: samples of that seed that a scan has read, and most tokens
    of each. tokens: of text to take.
    dtype: as `prune.models.precision.pick_dtype` takes it.
    """

    source: Source
    sources: Sequence[str]
    field: str
    seed: int
    skip: int
    tokens: int
    skip_length: int | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    show_progress: bool = True


def trial_text(scan: Scan | None, text: Sequence[str], field: str, seed: int) -> tuple[list[str], str, int, int]:
    """Sources, field, seed and spent samples of the text to measure on: `text`, else what the scan says it read.

    Raises:
        UsageError: no text is named, and the scan's own cannot be read (any more).
    """
    from prune.text.windows import text_identity

    recorded = scan.provenance.get("text") if scan is not None else None
    entries = recorded if isinstance(recorded, list) else [recorded]
    known = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("source"), str)]
    spent = 0 if scan is None else int(scan.provenance.get("samples_asked") or scan.samples)
    scan_seed = scan.provenance.get("seed") if scan is not None else None
    if text:
        same = [entry["source"] for entry in known] == list(text) and scan_seed == seed
        return list(text), field, seed, spent if same else 0
    if not known:
        raise UsageError("the choice is checked on text, and the scan names none: add --text, or --check 0")
    sources = [entry["source"] for entry in known]
    field = str(known[0].get("field") or field)
    for entry in known:
        try:
            now = text_identity(entry["source"], field)
        except (TextError, OSError):
            raise UsageError(
                f"the choice is checked on the text of the scan, but {entry['source']} cannot be read here: "
                "add --text, or --check 0"
            ) from None
        if now["sha256"] != entry.get("sha256"):
            spent = 0  # it has changed since: other documents come first now
    return sources, field, int(scan_seed or 0), spent


class Measured:
    """A loaded model and its held-out windows; loaded once, whatever is asked of it."""

    def __init__(self, trial: Trial) -> None:
        from prune.models.loading import load_model, load_tokenizer, pick_device
        from prune.models.precision import pick_dtype
        from prune.text.windows import draw_held_out

        self.trial = trial
        device = pick_device("auto")
        with progress("Loading the model and held-out text", None, shown=trial.show_progress):
            tokenizer = load_tokenizer(trial.source, trust_remote_code=trial.trust_remote_code)
            drawn, self.held_out = draw_held_out(
                trial.sources,
                tokenizer,
                tokens=trial.tokens,
                length=LENGTH,
                seed=trial.seed,
                field=trial.field,
                skip=trial.skip,
                skip_length=trial.skip_length,
            )
            self.windows = [sample.ids for sample in drawn]
            self.model = load_model(
                trial.source,
                dtype=pick_dtype(trial.dtype, device=device),
                device=device,
                trust_remote_code=trial.trust_remote_code,
            )
        if trial.show_progress and (line := self.warning()):
            screen().print(line)

    def warning(self) -> str:
        """One line where the held-out text is short, that says what to do; else empty."""
        from prune.text.windows import FEW_TOKENS

        tokens = sum(map(len, self.windows))
        if tokens >= FEW_TOKENS:
            return ""
        remedy = "raise --check-tokens" if tokens >= self.trial.tokens else "give more text with --text"
        return f"Warning: the check has {tokens} tokens of text, and fewer than {FEW_TOKENS:,} say little; {remedy}."

    def check(self, own: tuple[int, ...], candidates: Sequence[tuple[int, ...]], finalists: int) -> Check:
        """Check the choice `own` against `candidates`; see `prune.choosing.check`."""
        from prune.choosing.check import check_candidates

        with progress("Checking blocks on held-out text (%)", 100, shown=self.trial.show_progress) as bar:
            return check_candidates(
                self.model,
                self.windows,
                candidates,
                own,
                finalists=finalists,
                advance=lambda share: bar.advance(100 * share),
            )

    def removal(self, n: int, *, allow_last: bool) -> tuple[list[int], list[float], int]:
        """Greedy removal: layers in the order they went, the loss after each, and the tokens it was measured on."""
        from prune.choosing.check import greedy_removal

        windows, tokens = [], self.trial.tokens // LOSS_SHARE
        for window in self.windows:
            windows.append(window)
            tokens -= len(window)
            if tokens <= 0:
                break
        with progress("Removing layers one at a time", n, shown=self.trial.show_progress) as bar:
            order, losses = greedy_removal(self.model, windows, n, allow_last=allow_last, advance=bar.advance)
        return order, losses, sum(map(len, windows))

    def facts(self) -> dict[str, Any]:
        """What provenance says of the text."""
        from prune.text.windows import text_identity

        return {
            "text": [text_identity(source, self.trial.field) for source in self.trial.sources],
            "seed": self.trial.seed,
            "held_out": self.held_out,
        }
