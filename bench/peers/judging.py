"""One judge for all: `evaluate compare` on the same questions and prose, and the held-out loss of an adapter.

python -m bench.peers.judging held-out BASE ADAPTER...   # nats per token: the base's, and each adapter's on it
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.peers.materials import HELD_OUT, MODEL, QUESTIONS, load_tokenizer
from bench.peers.record import ROOT


class JudgeError(Exception):
    """The judge could not judge; the message is the end of what it said."""


def regrowth(program: str, *words: object) -> list[object]:
    """The command line of a program of this tree."""
    module = {"evaluate": "eval", "recipe": "recipes"}.get(program, program)
    return [sys.executable, "-m", module, *words]


def bill(
    models: Mapping[str, Path],
    out: Path,
    *,
    domains: Sequence[str],
    questions: int,
    sets: Sequence[str] = (),
    protocols: str = "choice,generation",
    data: Path = QUESTIONS,
    prose: Path = HELD_OUT,
) -> dict[str, dict[str, dict[str, float]]]:
    """What each model lost against the full one, `{name: {what: {...}}}`; see `losses`."""
    words = regrowth(
        "evaluate", "compare", MODEL, *models.values(), "--labels", ",".join(["full", *models]), "--data", data,
        "--domains", ",".join(domains), *(("--sets", ",".join(sets)) if sets else ()), "--protocols", protocols,
        "--limit", questions, "--text", prose, "--chat-template", "off", "--no-gains", "--no-noise",
        "--batch-size", 16, "--dtype", "float32", "--no-cache", "--out", out, "--overwrite",
    )  # fmt: skip
    _run(words)
    return losses(json.loads((out / "comparison.json").read_text()))


def losses(comparison: Mapping) -> dict[str, dict[str, dict[str, float]]]:
    """Of a comparison.json: by model, what each domain and the prose lost against the full model, with its interval.

    `bits` of an answer's NLL, `points` of accuracy, `nats` per token of prose; positive is worse, but for points.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in comparison["rows"]:
        if (versus := row["versus"]) is None:
            continue
        bits, accuracy = versus["answer_nll_bits_difference"], versus["accuracy_difference"]
        found.setdefault(row["model"], {})[f"{row['domain']}, {row['protocol']}"] = {
            "bits": round(bits["estimate"], 2), "bits_low": round(bits["low"], 2), "bits_high": round(bits["high"], 2),
            "points": round(100 * accuracy["estimate"], 1),
            "points_low": round(100 * accuracy["low"], 1), "points_high": round(100 * accuracy["high"], 1),
        }  # fmt: skip
    for row in comparison["prose"]:
        if (nats := row["difference"]) is not None:
            found.setdefault(row["model"], {})["held-out prose"] = {
                "nats": round(nats["estimate"], 3),
                "nats_low": round(nats["low"], 3),
                "nats_high": round(nats["high"], 3),
            }
    return found


def held_out(base: Path, adapters: Sequence[Path], *, length: int, tokens: int) -> list[float]:
    """Nats per token of a base, and of each adapter on it, on the same rows, in float32."""
    words = [sys.executable, "-m", "bench.peers.judging", length, tokens, base, *adapters]
    return json.loads(_run(words).splitlines()[-1])


def _run(words: Sequence[object]) -> str:
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise JudgeError(f"{words[2]}: {done.stderr[-1500:]}")
    return done.stdout


def _held_out(length: int, tokens: int, base: str, *adapters: str) -> list[float]:
    import torch
    from peft import PeftModel

    from heal.models.held_out import mean_loss
    from heal.text.sources import TextSource, hold_out
    from prune.checkpoint.source import locate
    from prune.models.loading import load_model

    text = TextSource(str(HELD_OUT), held_out=str(HELD_OUT), held_out_tokens=tokens)
    rows = hold_out(text, load_tokenizer(), length=length).rows
    losses = [mean_loss(load_model(locate(base), dtype=torch.float32), rows)]
    for adapter in adapters:
        model = PeftModel.from_pretrained(load_model(locate(base), dtype=torch.float32), adapter)
        losses.append(mean_loss(model.merge_and_unload(), rows))
    return losses


if __name__ == "__main__":
    print(json.dumps(_held_out(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])))
