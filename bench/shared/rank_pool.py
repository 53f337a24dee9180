"""The pool that bench/heal_rank.py chooses from, and the originals of the questions that are judged and that rank."""

from __future__ import annotations

import json
import random
import re

from bench.shared.runs import digest, lines, words, write_lines

# What each question of a set is for, by its words' hash.
PARTS = {
    "gsm8k": ("judged", "ranking"),
    "medmcqa": ("judged", "ranking", "pool", "pool"),
    "pubmedqa": ("judged", "ranking", "pool", "pool"),
}
ORIGINALS = {"gsm8k": "gsm8k/test.jsonl", "medmcqa": "medmcqa/dev.json", "pubmedqa": "pubmedqa/ori_pqal.json"}


def build(asked, shorten):
    """Write the pool, and the originals of the questions that are judged and of those that rank.

    `shorten` gives the beginning of a text, and how many tokens that has.
    """
    for name, parts in PARTS.items():
        rows = originals(asked, name)
        for part in ("judged", "ranking"):
            some = {key: row for key, row in rows.items() if part_of(question(row), parts) == part}
            path = asked.work / f"originals-{part}" / ORIGINALS[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            if name == "pubmedqa":
                path.write_text(json.dumps(some))
            else:
                write_lines(path, some.values())
    share = asked.pool_tokens // 5
    pool = []
    for source, rows in sources(asked).items():
        draw, filled = random.Random(f"pool {source}"), 0
        rows = list({row["text"]: row for row in rows}.values())
        draw.shuffle(rows)
        for row in rows:
            if filled < share:
                text, tokens = shorten(row["text"])
                pool.append({**row, "text": text, "tokens": tokens})
                filled += tokens
        if filled < share:
            raise SystemExit(f"{source} has {filled} tokens, and --pool-tokens asks for {share} of each source")
    write_lines(asked.work / "pool.jsonl", pool)


def sources(asked):
    """All documents that there are of each source, without those of questions that are judged or rank."""

    def row(text, source, topic, kind):
        return {"text": text.strip(), "source": source, "topic": topic, "kind": kind}

    def of_pool(name):
        return [each for each in originals(asked, name).values() if part_of(question(each), PARTS[name]) == "pool"]

    known = {words(question(each)) for each in originals(asked, "gsm8k").values()}
    solved = [each for each in lines(asked.data / "gsm8k/train.jsonl") if words(question(each)) not in known]
    explained = [each for each in of_pool("medmcqa") if each["exp"] and each["exp"].strip()]
    wiki = lines(asked.data / "text/wiki_vital_leads_en.jsonl")
    return {
        "wikipedia": [row(each["extract"], "wikipedia", each["topic"], "lead") for each in wiki],
        "c4": [row(each["text"], "c4", "", "page") for each in lines(asked.data / "text/c4_demo.jsonl")],
        "gsm8k": [row(solution(each), "gsm8k", "", "solution") for each in solved],
        "medmcqa": [row(explanation(each), "medmcqa", each["subject_name"] or "", "explanation") for each in explained],
        "pubmedqa": [row(" ".join(each["CONTEXTS"]), "pubmedqa", "", "abstract") for each in of_pool("pubmedqa")],
    }


def solution(row):
    """A question with its worked solution, without the marks for a calculator."""
    worked, _, number = re.sub(r"<<.*?>>", "", row["answer"]).partition("####")
    return f"{row['question'].strip()}\n{worked.strip()}\nThe answer is {number.strip()}."


def explanation(row):
    """A question with its right choice and the explanation."""
    return f"{row['question'].strip()}\n{row['op' + 'abcd'[row['cop'] - 1]].strip()}\n{row['exp'].strip()}"


def originals(asked, name):
    """The rows of a set by a key of theirs."""
    path = asked.data / ORIGINALS[name]
    return json.loads(path.read_text()) if name == "pubmedqa" else dict(enumerate(lines(path)))


def question(row):
    return row["QUESTION"] if "QUESTION" in row else row["question"]


def part_of(text, parts):
    """By the words alone, so that a question that is there twice is of one part."""
    return parts[digest(text) % len(parts)]


def cutter(model, length):
    """What gives a text's first `length` tokens as text, and how many there are."""
    from prune.checkpoint.source import locate
    from prune.common.screen.terminal import quiet_libraries
    from prune.models.loading import load_tokenizer

    quiet_libraries()
    tokenizer = load_tokenizer(locate(model))

    def shorten(text):
        ends = [
            end for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        ]
        return text[: ends[:length][-1]], min(len(ends), length)

    return shorten
