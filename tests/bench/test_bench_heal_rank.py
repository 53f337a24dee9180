"""bench/heal_rank.py without a model: the pool, the questions kept apart, the choice of text, and the table."""

import json
from argparse import Namespace

import pytest

from bench import heal_rank
from bench.heal_rank import DOMAINS, choose, table
from bench.shared.rank_pool import PARTS, build, part_of
from bench.shared.runs import lines, write_lines


@pytest.fixture
def asked(tmp_path):
    data = tmp_path / "data"
    for folder in ("gsm8k", "medmcqa", "pubmedqa", "text"):
        (data / folder).mkdir(parents=True)
    answer = "It is <<{0}+{0}={1}>>{1}.\n#### {1}"
    sums = [{"question": f"What is {i} and {i}?", "answer": answer.format(i, 2 * i)} for i in range(60)]
    write_lines(data / "gsm8k/train.jsonl", sums)
    write_lines(data / "gsm8k/test.jsonl", sums[40:])  # of which the same words must not be in the pool
    choices = {"cop": 2, "opa": "lung", "opb": "liver", "opc": "skin", "opd": "eye", "subject_name": "Anatomy"}
    medical = [{"question": f"Which organ is number {i}?", "exp": f"Organ {i} is explained here." if i % 3 else None,
                **choices} for i in range(80)]  # fmt: skip
    write_lines(data / "medmcqa/dev.json", medical)
    papers = {str(i): {"QUESTION": f"Does drug {i} work?", "CONTEXTS": [f"Drug {i} was given.", "It was read."],
                       "final_decision": "yes"} for i in range(80)}  # fmt: skip
    (data / "pubmedqa/ori_pqal.json").write_text(json.dumps(papers))
    write_lines(data / "text/c4_demo.jsonl", ({"text": f"Page {i} of the web, with words."} for i in range(40)))
    leads = ({"extract": f"Star {i} is a star.", "topic": "Stars", "title": ""} for i in range(40))
    write_lines(data / "text/wiki_vital_leads_en.jsonl", leads)
    work = tmp_path / "work"
    work.mkdir()
    return Namespace(data=data, work=work, pool_tokens=300, tokens=40, seeds=[0, 1], n=8, start=9, table=False)


def shorten(text):
    return text, len(text.split())


def test_the_pool_has_equal_shares_and_no_question_that_is_judged_or_ranks(asked):
    build(asked, shorten)
    pool = list(lines(asked.work / "pool.jsonl"))
    by_source = {}
    for row in pool:
        by_source.setdefault(row["source"], []).append(row["tokens"])
    assert set(by_source) == {"wikipedia", "c4", "gsm8k", "medmcqa", "pubmedqa"}
    for tokens in by_source.values():
        assert 60 <= sum(tokens) < 60 + max(tokens)
    assert {row["kind"] for row in pool} == {"lead", "page", "solution", "explanation", "abstract"}
    asked_first, asked_second = (questions(asked, part) for part in ("judged", "ranking"))
    assert asked_first
    assert asked_second
    assert not asked_first & asked_second
    text = "\n".join(row["text"] for row in pool)
    for question in asked_first | asked_second:
        assert question not in text
        drug = question.removeprefix("Does drug ").removesuffix(" work?")
        assert f"Drug {drug} was" not in text
    assert "<<" not in text
    before = (asked.work / "pool.jsonl").read_text()
    build(asked, shorten)
    assert (asked.work / "pool.jsonl").read_text() == before


def questions(asked, part):
    folder = asked.work / f"originals-{part}"
    rows = [*lines(folder / "gsm8k/test.jsonl"), *lines(folder / "medmcqa/dev.json")]
    return {row["question"] for row in rows} | {
        row["QUESTION"] for row in json.loads((folder / "pubmedqa/ori_pqal.json").read_text()).values()
    }


def test_the_same_words_are_of_one_part():
    for parts in PARTS.values():
        assert part_of("What  IS it?", parts) == part_of("what is it?", parts)


def test_a_source_that_is_too_small_is_named(asked):
    asked.pool_tokens = 10_000
    with pytest.raises(SystemExit, match="wikipedia has 200 tokens"):
        build(asked, shorten)


def test_every_way_chooses_as_many_tokens(asked):
    build(asked, shorten)
    pool = list(lines(asked.work / "pool.jsonl"))
    of = [float(row["source"] == "c4") for row in pool]
    of[0] = None  # a document that was too short to be ranked
    (asked.work / "scores-gradient.json").write_text(json.dumps(dict.fromkeys(DOMAINS, of)))
    for way in ("random", "gradient", "topic"):
        for domain in DOMAINS:
            chosen = choose(asked, way, domain, 0)
            assert 40 <= sum(row["tokens"] for row in chosen) < 40 + 30
    assert {row["source"] for row in choose(asked, "gradient", "math", 0)} == {"c4"}
    assert {row["source"] for row in choose(asked, "topic", "math", 0)} == {"gsm8k"}
    assert {row["source"] for row in choose(asked, "topic", "medical", 0)} <= {"medmcqa", "pubmedqa"}
    assert choose(asked, "random", "math", 0) != choose(asked, "random", "math", 1)
    asked.tokens = 10_000
    with pytest.raises(SystemExit, match="fewer --tokens"):
        choose(asked, "random", "math", 0)


def test_the_table_pairs_every_way_with_random_text_by_seed_and_question(asked):
    assert table(asked) == "nothing measured yet"

    def put(name, shift, healed=True):
        answers = {domain: {f"q{i}": 10.0 + i + shift for i in range(12)} for domain in DOMAINS}
        found = {"answers": answers, **({"loss": 3.5, "cut_loss": 4.0} if healed else {})}
        heal_rank.result(asked, name).write_text(json.dumps(found))

    put("full", 0, healed=False)
    put("cut", 5, healed=False)
    for seed in asked.seeds:
        put(f"random-40-seed{seed}", 2 + seed)
        put(f"gradient-math-40-seed{seed}", 1 + seed)
    rows = [line for line in table(asked).splitlines() if line.startswith("|")]
    assert rows[2:] == [
        "| full |  | 1 |  | 15.50 |  | 15.50 |  |",
        "| cut |  | 1 | 4.000 | 20.50 |  | 20.50 |  |",
        "| random |  | 2 | 3.500 | 18.00 |  | 18.00 |  |",
        "| gradient | math | 2 | 3.500 | 17.00 | -1.00 (-1.00 to -1.00) | 17.00 | -1.00 (-1.00 to -1.00) |",
    ]
