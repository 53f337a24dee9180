"""`evaluate depth`: measures to the bit, planted truths, resumed runs, and one clear line for what cannot be."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval import measure_depth
from eval.depth.document import DepthRecord
from eval.depth.loaded import Loaded
from eval.depth.pages.page import render
from eval.depth.pages.showing import interactions_table
from eval.depth.plan import draw_tasks, plan_blocks, read_pool
from eval.depth.settings import DepthSettings
from eval.depth.unfinished import KeptWork
from eval.depth.walking import walk_tasks
from eval.runs.files import read_lines
from eval.runs.run import run
from prune import cut, plan_cut
from prune.common.errors import UsageError
from prune.common.machine.stopping import Interrupted
from prune.models.loading import decoder_layers
from prune.models.walks.walking import PassThrough
from tests.support.commands import check_refused, succeed
from tests.support.commands import run as run_command
from tests.support.models import changed, save_tiny
from tests.support.rationales import organs, sums, write_questions

LN2 = math.log(2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two domains of which every question has a rationale, but for a few organs."""
    rows = [
        {**row, "rationale": None if number % 5 == 4 else row["rationale"]} for number, row in enumerate(organs(20))
    ]
    return write_questions(tmp_path_factory.mktemp("questions"), math=sums(16), medical=rows)


@pytest.fixture(scope="module")
def tiny(sample_model, tmp_path_factory):
    """A random Llama of 8 layers with the sample's tokenizer, whose layers matter."""
    shape = {"layers": 8, "hidden_size": 32, "head_dim": 8, "intermediate_size": 64}
    shape |= {"max_position_embeddings": 512, "initializer_range": 0.25}
    return save_tiny(tmp_path_factory.mktemp("depth") / "tiny", sample_model, **shape)


def _settings(data, **more):
    given = {"domains": "medical,math", "chat_template": "off", "similarity": False, **more}
    return DepthSettings.of(data=data, **given)


def _walked(model, folder, settings, chat=False):
    """The measures of a loaded model, each task's."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plan = plan_blocks(len(decoder_layers(model)), sizes=settings.sizes, spread=settings.starts)
    tasks = draw_tasks(read_pool(settings), settings, tokenizer)
    loaded = Loaded(model, tokenizer, "cpu", context=512, chat=chat)
    return plan, walk_tasks(loaded, plan, tasks, settings, KeptWork(None, {}), show_progress=False).tasks


def _bits(model, tokenizer, context, text, dropped):
    """-log2 p(text | context) of the model with layers handed through, by one plain pass."""
    ids, before = tokenizer(context + text)["input_ids"], len(tokenizer(context)["input_ids"])
    layers = decoder_layers(model)
    kept = {layer: layers[layer] for layer in dropped}
    for layer, module in kept.items():
        form = isinstance(module(torch.zeros(1, 1, 32, dtype=model.dtype), **_positions(model)), tuple)
        layers[layer] = PassThrough(module, lambda x, *_, form=form, **__: (x,) if form else x)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
    for layer, module in kept.items():
        layers[layer] = module
    return -float(sum(logits[i - 1, ids[i]] for i in range(before, len(ids)))) / LN2


def _positions(model):
    state = torch.zeros(1, 1, 32, dtype=model.dtype)
    return {"position_embeddings": model.model.rotary_emb(state, torch.zeros(1, 1, dtype=torch.int64))}


def _texts(task, number):
    """Measure -> context, continuation, and what the bits are divided by; written down anew."""
    question = task.plan.questions[number]
    asked = f"Question: {question.question}"
    right = question.answer if question.choices is None else question.choices[question.answer]
    fast = f"{asked}\nAnswer:"
    if question.choices is None:
        fast = (
            "Problem: Mia has 4 pens. Her aunt gives her 3 more pens. How many pens does Mia have now?\n"
            "Answer: 7 pens\n\nProblem: A baker puts 12 rolls in bags of 2. How many bags does he fill?\n"
            f"Answer: 6 bags\n\nProblem: {question.question}\nAnswer:"
        )
    found = {"fast": (fast, f" {right}", 1)}
    if question.rationale:
        other = task.plan.questions[task.partners[number]].rationale
        using = f"{asked}\nSolution: {question.rationale}\nAnswer:"
        found["using"] = (using, f" {right}", 1)
        for name, text in (("writing", question.rationale), ("control", other)):
            found[name] = (f"{asked}\nSolution:", f" {text}", len(text.encode()))
    return found


def test_each_measure_is_that_of_a_plain_pass_with_the_layers_handed_through(tiny, data):
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    plan, tasks = _walked(model, tiny, _settings(data, sizes="1,3", starts="2", limit=17))
    assert [variant.label for variant in plan.variants] == ["full", "1@0", "1@6", "3@0", "3@4"]
    seen = set()
    for measured in tasks:
        for number in (0, measured.task.n - 1):
            texts = _texts(measured.task, number)
            for measure in ("fast", "using", "writing", "control"):
                values = measured.values[measure][:, number]
                if measure not in texts:
                    assert np.isnan(values).all()
                    continue
                context, text, by = texts[measure]
                for place in (0, 4) if number else (2, 3):
                    truth = _bits(model, tokenizer, context, text, plan.variants[place].dropped)
                    assert values[place] == pytest.approx(truth / by, abs=1e-4 / by)
                    seen.add((measured.name, measure, place))
    assert len(seen) == 4 * 4 + 4 * 2 + 2  # the last organ has no rationale


def test_what_a_question_tells_of_its_solution_is_paired_by_text(tiny, data):
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    _, tasks = _walked(model, tiny, _settings(data, domains="math", sizes="2", starts="1"))
    (measured,) = tasks
    told, partners = measured.values, measured.task.partners
    assert sorted(partners) == list(range(measured.task.n))
    for number, partner in enumerate(partners):
        wanted = told["control"][:, number] - told["writing"][:, partner]
        assert told["informed"][:, partner] == pytest.approx(wanted)
    assert told["informed"].mean(1) == pytest.approx((told["control"] - told["writing"]).mean(1))
    assert measured.costs("informed")[0] == pytest.approx(told["informed"][0] - told["informed"][1])


LAYERS, DEEP, SHALLOW = 12, 10, 1


def _planted(sample_model, folder, **raised):
    """A model of 12 layers that do nothing, but that one makes digits likelier, and one the words of the organs.

    A layer's feed-forward part reads what is the same and large in all tokens, and writes where the head looks for the
    one or the other kind of token. All other tokens stay as they are, so that neither kind takes from the other.
    """
    shape = {"layers": LAYERS, "hidden_size": 16, "head_dim": 4, "intermediate_size": 8, "max_position_embeddings": 512}
    save_tiny(folder, sample_model, **shape, initializer_range=0.02, tie_word_embeddings=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    written = [row["rationale"] + " " + " ".join(row["choices"]) for row in organs(20)]
    words = sorted({token for text in written for token in tokenizer(f" {text}")["input_ids"]})
    with changed(folder) as model:
        model.model.embed_tokens.weight[:, :3] = torch.tensor([16.0, 0.0, 0.0])
        model.lm_head.weight[:, :3] = 0.0
        model.lm_head.weight[tokenizer("0123456789")["input_ids"], 1] = 5.0
        model.lm_head.weight[words, 2] = 5.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for kind, number in raised.items():
            mlp = model.model.layers[number].mlp
            mlp.gate_proj.weight[0], mlp.up_proj.weight[0] = 0.0, 0.0
            mlp.gate_proj.weight[0, 0] = mlp.up_proj.weight[0, 0] = 1.0
            mlp.down_proj.weight[{"digits": 1, "words": 2}[kind], 0] = 0.25
    return folder


PLANTED = {
    "seen": {"digits": DEEP, "words": SHALLOW},
    "the reverse": {"digits": SHALLOW, "words": DEEP},
    "cannot tell here": {},
}


@pytest.mark.parametrize(
    ("verdict", "measure"), [("seen", "writing"), ("the reverse", "fast"), ("cannot tell here", "fast")]
)
def test_a_model_whose_deep_block_alone_does_the_sums_is_told_so_and_one_without_is_not(
    verdict, measure, sample_model, data, tmp_path
):
    folder = _planted(sample_model, tmp_path / "model", **PLANTED[verdict])
    found = measure_depth(folder, _settings(data, sizes="1", starts="every", measures=measure), show_progress=False)
    (row,) = found.document.interactions
    assert (row.measure, row.protocol, row.domains) == (measure, "both", ("math", "medical"))  # no protocol is shared
    assert row.found.verdict == verdict
    looks = {cell.look for cell in interactions_table(found.document).rows[0]}
    assert looks == ({""} if verdict == "cannot tell here" else {"", "clear"})  # a contrast is no loss and no gain
    for task in found.tasks:
        costs = task.costs(measure)[:, task.there(measure)].mean(1)
        kind = "digits" if task.task.plan.domain == "math" else "words"
        assert np.flatnonzero(costs > 0.1).tolist() == [n for name, n in PLANTED[verdict].items() if name == kind]


def test_questions_with_a_rationale_come_first_and_long_ones_count_as_without(tiny, data):
    tokenizer = AutoTokenizer.from_pretrained(tiny)

    def drawn(**more):
        return draw_tasks(read_pool(settings := _settings(data, **more)), settings, tokenizer)

    medical, _ = drawn(limit=10)
    assert medical.n == 10
    assert (medical.lengths > 0).all()
    assert (medical.rationales, medical.too_long) == (16, 0)
    more, _ = drawn(limit=18)
    assert (more.lengths > 0).sum() == 16
    assert [q.id for q in more.plan.questions[:10]] == [q.id for q in medical.plan.questions]
    short, _ = drawn(limit=18, max_rationale_tokens=9)
    assert short.too_long > 0
    assert (short.lengths > 0).sum() == 16 - short.too_long
    fast, _ = drawn(limit=10, measures="fast")
    assert not fast.lengths.any()


@pytest.fixture(scope="module")
def folder(tiny, data, tmp_path_factory):
    """A whole run by the command, with answers in words."""
    out = tmp_path_factory.mktemp("depth") / "out"
    words = ("--data", data, "--domains", "medical,math", "--sizes", "1,2", "--generate", 1, "--slow-tokens", 16)
    result = succeed("evaluate", "depth", tiny, *words, "--limit", 6, "--starts", 3, "--out", out, "--json")
    assert json.loads(result.stdout) == json.loads((out / "depth.json").read_text())
    return out


def test_the_folder_holds_what_can_be_analysed_again(folder):
    document = DepthRecord.read(folder / "depth.json")
    labels = [variant.label for variant in document.variants]
    assert labels == ["full", "1@0", "1@3", "1@6", "2@0", "2@2", "2@5"]
    means = {(r.domain, r.measure, r.variant): r for r in document.rows}
    for domain, protocol in (("math", "generation"), ("medical", "choice")):
        lines = read_lines(folder / f"depth_{domain}_{protocol}.jsonl")
        assert len(lines) == 6
        for measure in document.measures:
            values = np.array([line[measure] for line in lines if line[measure] is not None])
            for place, label in enumerate(labels):
                row = means[domain, measure, label]
                assert row.value.estimate == pytest.approx(values[:, place].mean())
                if place:
                    assert row.change.estimate == pytest.approx((values[:, place] - values[:, 0]).mean())
        ids = [line["id"] for line in lines]
        assert all(line["control_of"] in ids and line["control_of"] != line["id"] for line in lines)
    assert document.similarity.layers == 8
    assert [row.why for row in document.written[:2]] == ["full model", "contrast"]
    assert {row.variant for row in document.written} >= {"full", "1@6", "2@5"}
    assert len(document.disagreements) == 2 * 2 * (len(document.written) - 1)
    assert {part.domain for part in document.events} == {"math generation", "medical choice"}
    assert not any(path.name.startswith(".") for path in folder.parent.iterdir())


def test_the_page_and_the_tables_tell_it_and_are_made_again_from_the_document(folder, tmp_path):
    page = (folder / "report.html").read_text()
    assert render(DepthRecord.read(folder / "depth.json")) == page
    for source in (folder, folder / "depth.json"):
        succeed("evaluate", "report", source, "--out", tmp_path / f"{source.name}.html")
        assert (tmp_path / f"{source.name}.html").read_text() == page
    text = (folder / "depth.md").read_text()
    for words in ("Loss without a block of 2 layers", "Likelihood against written answers", "Depth and domain"):
        assert words in text
        assert words in page
    check_refused(run_command("evaluate", "report", folder, "--sweep", folder), 2, "holds a depth run")


def test_answers_in_words_are_those_of_the_cut_checkpoint(folder, tiny, data, tmp_path):
    cut(plan_cut(tiny, n=2, start=5), tmp_path / "cut")
    asked = run(tmp_path / "cut", data=data, domains="math", thinking="fast,slow", slow_tokens=16, show_progress=False)
    given = {(s.id, s.thinking): s.response for s in asked.samples}
    count = 0
    for path in folder.glob("written_2@5_math_*.jsonl"):
        for line in read_lines(path):
            assert line["response"] == given[line["id"], line["thinking"]]
            count += 1
    assert count == 2 * 6


def test_a_resumed_run_ends_as_an_uninterrupted_one(tiny, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    ask = _settings(data, domains="math", sizes="2", starts="2", generate=1, slow_tokens=16, limit=4)
    whole = measure_depth(tiny, ask, show_progress=False).to_json()
    monkeypatch.setattr("prune.common.files.resume.EVERY", 0)
    write, written = KeptWork.put, []

    def stop(self, label, samples):
        write(self, label, samples)
        written.append(label)
        if len(written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(KeptWork, "put", stop)
    with pytest.raises(Interrupted, match="--resume goes on there"):
        measure_depth(tiny, ask, out=out, show_progress=False)
    assert not out.exists()
    other = _settings(data, domains="math", sizes="1", starts="2", generate=1, slow_tokens=16, limit=4)
    with pytest.raises(UsageError, match="--resume: the list of blocks was"):
        measure_depth(tiny, other, out=out, resume=True, show_progress=False)
    with pytest.raises(UsageError, match="--resume: --max-length was 512 and is now 500"):
        measure_depth(tiny, replace(ask, max_length=500), out=out, resume=True, show_progress=False)
    monkeypatch.setattr("eval.depth.walking.score", lambda *_, answers, **__: answers)  # all is answered
    again = measure_depth(tiny, ask, out=out, resume=True, show_progress=False).to_json()
    assert written.count("full") == 1
    for document in (whole, again):
        del document["measured"], document["provenance"]["command"], document["how"]["tokens"]
    assert again == whole
    assert json.loads((out / "depth.json").read_text())["rows"] == whole["rows"]


BAD = [
    (("--sizes", "8"), 2, "--sizes 8: of 8 layers at most 7 can be dropped"),
    (("--sizes", "0"), 2, "--sizes 0 drops nothing"),
    (("--starts", "some"), 2, "--starts some: give every, or a number of starts"),
    (("--measures", "recall"), 2, "--measures recall is unknown; use fast, using, writing, control"),
    (("--domains", "law"), 1, "holds no law.jsonl"),
    (("--domains", "nonsense"), 2, "no domain is called 'nonsense'"),
    (("--domains", "plain", "--measures", "using,writing"), 1, "no question of plain"),
    (("--measures", "writing", "--max-rationale-tokens", 4), 1, "no rationale has 4 tokens at most"),
    (("--generate", 1, "--slow-tokens", 500), 2, "--slow-tokens 500 leaves no room"),
    (("--generate", -1), 2, "--generate -1 is too few"),
]


def test_prompts_that_nothing_would_ask_are_refused(data):
    with pytest.raises(UsageError, match="--prompts one-turn is for fast and slow thinking, which is not asked"):
        _settings(data, prompts="one-turn")
    assert _settings(data, prompts="one-turn", generate=1).in_words.prompts is not None


@pytest.mark.parametrize(("words", "code", "message"), BAD)
def test_what_cannot_be_is_refused_in_one_line(words, code, message, tiny, data, tmp_path):
    folder = write_questions(tmp_path / "q", math=sums(4), plain=sums(4, domain="plain", rationale=None))
    given = {
        "--data": folder,
        "--domains": "math",
        "--out": tmp_path / "out",
        **dict(zip(words[::2], words[1::2], strict=True)),
    }
    check_refused(
        run_command("evaluate", "depth", tiny, *[word for pair in given.items() for word in pair]), code, message
    )
    assert not (tmp_path / "out").exists()


def test_a_domain_without_rationales_has_the_fast_measure_alone_and_a_warning(tiny, tmp_path):
    folder = write_questions(tmp_path / "q", math=sums(4), plain=sums(4, domain="plain", rationale=None))
    found = measure_depth(
        tiny, _settings(folder, domains="math,plain", sizes="2", starts="1"), show_progress=False
    ).document
    rows = [row for row in found.rows if row.domain == "plain"]
    assert {row.measure for row in rows if row.value is not None} == {"fast"}
    assert all(row.n == 0 and row.change is None for row in rows if row.measure != "fast")
    assert all(row.value is not None for row in found.rows if row.domain == "math")
    assert [line for line in found.warnings if line.startswith("no question of plain has a rationale")]


def test_the_real_model_knows_its_solutions_better_beside_their_questions(sample_model, tmp_path):
    folder = write_questions(tmp_path / "q", math=sums(2))
    asked = DepthSettings.of(
        data=folder, domains="math", sizes="4", starts="1", dtype="float32", chat_template="on", similarity=False
    )
    found = measure_depth(sample_model, asked, show_progress=False).document
    assert found.how.path == "tree"
    full = {row.measure: row.value.estimate for row in found.rows if row.variant == "full"}
    assert full["informed"] > 0.5
    assert full["using"] < full["fast"]
    assert all(row.change.estimate > 1 for row in found.rows if row.variant == "4@0" and row.measure != "informed")
