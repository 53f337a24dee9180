"""`prune scan` beside PruneMe's pattern and short-transformers: the same tokens, and whether the distances agree.

    python -m bench.peers.scan

PruneMe is no package, so a script does what it does (scans/hidden_states.py). short-transformers needs layers that
return tuples, and gets the newest transformers that has them. All read the same whole documents in float32. The others
run one at a time; `prune scan` batches them, and reckons standard errors, influences and CKA as well.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from bench.peers.record import ROOT, THREADS, WORK, write
from bench.peers.turns import emptied, figures, must, ours, take_turns, warm
from bench.shared.environments import NotInstallableError, environment

SHORT = ("short-transformers==1.0.0", "transformers==4.53.3")
SAMPLE = ROOT / ".sample" / "model"
TEXT = ROOT / ".sample" / "text.jsonl"
SCRIPTS = Path(__file__).parent / "scans"
SAMPLES, SHORTEST, LONGEST, BLOCK = 32, 64, 192, 8
BLOCKS = (
    "Regrowth always keeps the last layer; PruneMe may choose it, and scores it by the state after the final norm; "
    "short-transformers asked for n layers chooses by the distances of n + 1"
)
_ROUNDS, _LIMIT = 3, 600


def main() -> None:
    work = emptied(WORK / "scan")
    try:
        tokens = write_texts(work)
        scan = [
            sys.executable, "-m", "prune", "scan", SAMPLE, "--text", work / "text.jsonl", "--samples", SAMPLES,
            "--dtype", "float32", "--out", work / "ours.json", "--overwrite",
        ]  # fmt: skip
        arguments = [SAMPLE, work / "texts.json"]
        name = ours("prune scan")
        pruneme = f"PruneMe's pattern, transformers {version('transformers')}"
        ways: dict[str, list[object]] = {
            name: scan,
            pruneme: [sys.executable, SCRIPTS / "hidden_states.py", *arguments, work / "pruneme.json"],
        }
        found = {pruneme: work / "pruneme.json"}
        rows = []
        try:
            with environment("short-transformers", SHORT) as made:
                short = f"{made.version('short-transformers')}, {made.version('transformers')}"
                ways[short] = [made.python, SCRIPTS / "short_transformer.py", *arguments, work / "short.json"]
                found[short] = work / "short.json"
                rows = measured(ways, name, work / "ours.json", found)
        except NotInstallableError as error:
            rows = measured(ways, name, work / "ours.json", found)
            rows.append({"tool": SHORT[0].replace("==", " "), "not_run": f"not installable: {error}"})
        common = {"model": "SmolLM2-135M-Instruct", "dtype": "float32", "samples": SAMPLES, "tokens": tokens}
        common |= {"rounds": _ROUNDS, "threads": THREADS, "blocks": BLOCKS}
        write("scan", "angular distances of all blocks", rows, settings=common)
    finally:
        shutil.rmtree(work)


def write_texts(work: Path) -> int:
    """Whole documents, for us and for the others, which get the token that opens a text written out; how many tokens.

    Raises:
        AssertionError: the tokens of the two are not the same.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SAMPLE)
    with TEXT.open(encoding="utf-8") as lines:
        texts = (json.loads(line)["text"].strip() for line in lines)
        encoded = ((text, tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
        chosen = list(islice((pair for pair in encoded if SHORTEST <= len(pair[1]) < LONGEST), SAMPLES))
    opened = [tokenizer.bos_token + text for text, _ in chosen]
    for text, (_, ids) in zip(opened, chosen, strict=True):
        assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id, *ids]
    (work / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in chosen))
    (work / "texts.json").write_text(json.dumps(opened))
    return sum(len(ids) + 1 for _, ids in chosen)


def measured(
    ways: Mapping[str, Sequence[object]], name: str, scan: Path, found: Mapping[str, Path]
) -> list[dict[str, object]]:
    """The rows, with the agreement of each peer's distances and blocks with ours."""
    runs = take_turns(ways, _ROUNDS, limit_s=_LIMIT, before=lambda: warm(SAMPLE))
    must(runs[name][-1])
    mine = json.loads(scan.read_text())
    best = {str(block["n"]): block["start"] for block in mine["best"]}
    rows = [figures(name, runs[name], **{f"block_of_{BLOCK}": best[str(BLOCK)]})]
    for peer, path in found.items():
        more = {} if runs[peer][-1].code else agreement(mine["distance"], best, json.loads(path.read_text()))
        rows.append(figures(peer, runs[peer], **more))
    return rows


def agreement(
    distances: Sequence[Sequence[float]], best: Mapping[str, int], peer: Mapping[str, object], block: int = BLOCK
) -> dict[str, object]:
    """The greatest difference of distances, apart for the blocks that end at the last layer; and the chosen blocks."""
    inner, last = [0.0], [0.0]
    for mine, other in zip(distances, peer["distance"], strict=True):
        apart = [abs(one - two) for one, two in zip(mine, other, strict=True)]
        inner += apart[:-1]
        last.append(apart[-1])
    same = sum(peer["best"][n] == start for n, start in best.items())
    return {
        "distances_apart": max(inner),
        "of_blocks_with_the_last_layer": max(last),
        f"block_of_{block}": peer["best"][str(block)],
        "sizes_with_our_block": f"{same} of {len(best)}",
    }


if __name__ == "__main__":
    main()
