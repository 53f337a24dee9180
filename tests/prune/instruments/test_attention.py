"""What each head does at a step, and taking heads out, in families with groups, windows, norms and gates."""

import copy

import pytest
import torch

from prune.common.errors import CheckpointError, RegrowthError
from prune.instruments.ablation import ablated, draw_like
from prune.instruments.attention import find_sites
from prune.instruments.detecting import Writer
from prune.instruments.prompts import Prompt
from prune.instruments.watching import HeadWatcher
from tests.support.every_family import small_config
from tests.support.head_reference import NoWords, reference_scores

TIED = {"tie_word_embeddings": True, "num_hidden_layers": 3}
FAMILIES = {  # groups of heads share keys in all but gpt2; the windows are shorter than the prompts
    "llama": (TIED, None),
    "qwen3": (TIED, None),
    "mistral": ({**TIED, "sliding_window": 9}, None),
    "gemma2": ({**TIED, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
               "post_attention_layernorm"),
}  # fmt: skip


def model_of(family, **more):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(small_config(family, **more)).eval()
    if more.get("tie_word_embeddings"):
        with torch.no_grad():
            model.lm_head.weight[5:8] *= 4  # so that it writes the tokens of the prompts
    return model


def prompts(count=3, length=24, seed=0):
    """Of few distinct tokens, and of different lengths."""
    draw = torch.Generator().manual_seed(seed)
    common = torch.randint(5, 8, (8,), generator=draw).tolist()
    rest = [torch.randint(5, 8, (length - 8 - row,), generator=draw).tolist() for row in range(count)]
    return [Prompt((*common, *ids), 10 + row, 19 + row) for row, ids in enumerate(rest)]


def written_by(writer, batch, watcher=None):
    return [[int(token) for token in answer.split()] for answer in writer.write(batch, watcher)]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_all_heads_at_once_are_those_of_plain_loops(family):
    more, after = FAMILIES[family]
    model = model_of(family, **more)
    sites = find_sites(model)
    assert [site.after is not None for site in sites] == [after is not None] * 3
    watcher, batch = HeadWatcher(sites), prompts()
    writer = Writer(model, NoWords(), 5)
    answers = written_by(writer, batch, watcher)
    assert answers == written_by(writer, batch)  # watching changes nothing
    any_copied = 0.0
    for row, (prompt, written) in enumerate(zip(batch, answers, strict=True)):
        copied, wrote = reference_scores(model, prompt, written, after)
        torch.testing.assert_close(torch.tensor(watcher.copy[row]).float(), copied.flatten())
        torch.testing.assert_close(torch.tensor(watcher.write[row]).float(), wrote.flatten(), atol=1e-5, rtol=1e-3)
        any_copied += float(copied.sum())
    assert any_copied > 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gemma2", "gpt_oss"])
def test_heads_taken_out_equal_zeroed_weights(family):
    model = model_of(family)
    sites = find_sites(model)
    gone = [(2, 1), (2, 3), (5, 0)]
    zeroed = copy.deepcopy(model)
    for layer, head in gone:
        site = find_sites(zeroed)[layer]
        part = slice(head * site.width, (head + 1) * site.width)
        with torch.no_grad():
            if isinstance(site.projection, torch.nn.Linear):
                site.projection.weight[:, part] = 0
            else:  # GPT-2's weights stand the other way round
                site.projection.weight[part] = 0
    ids = torch.tensor([prompt.ids[:20] for prompt in prompts()])
    with torch.no_grad():
        plain, expected = model(input_ids=ids).logits, zeroed(input_ids=ids).logits
        with ablated(sites, gone):
            torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-6, rtol=1e-6)
        assert torch.equal(model(input_ids=ids).logits, plain)  # and nothing is left behind
    assert not torch.allclose(plain, expected, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_batch_read_from_a_layer_on_is_what_a_whole_reading_gives(family):
    model = model_of(family, **FAMILIES[family][0])
    sites, batch = find_sites(model), prompts()
    writer = Writer(model, NoWords(), 6)
    with torch.no_grad():
        reading = writer.reader.read(batch, [1, 2])
        full = writer.answer(reading)
        with ablated(sites, [(2, 0), (2, 1), (2, 2)]):
            again = writer.answer(writer.reader.read_again(reading, 2))
            assert again == Writer(model, NoWords(), 6).write(batch)
            assert again == [Writer(model, NoWords(), 6).write([prompt])[0] for prompt in batch]
        assert writer.answer(reading) == writer.answer(writer.reader.read_again(reading, 1)) == full


def test_thinking_is_no_part_of_an_answer():
    class Thinks(NoWords):
        def get_vocab(self):
            return {"<think>": 90, "</think>": 91}

    model = model_of("llama", **TIED)
    steps = iter([90, 5, 6, 91, 7, 8])

    class Says(torch.nn.Module):
        def forward(self, hidden):
            logits = torch.zeros(*hidden.shape[:-1], 97)
            logits[..., next(steps)] = 1
            return logits

    writer = Writer(model, Thinks(), 5)
    batch = prompts(1)
    with torch.no_grad():
        reading = writer.reader.read(batch)
        model.lm_head = Says()
        assert writer.answer(reading) == ["7"]
        steps = iter([5, 91, 7, 8, 9])
        opened = Writer(model, Thinks(), 5)
        reading.rows.ids[0, 3] = 90  # the template has opened a thought
        assert opened.answer(reading) == ["7 8 9"]


def test_random_heads_are_of_the_same_layers():
    every = [(layer, head) for layer in range(6) for head in range(4)]
    chosen = [(1, 0), (1, 1), (4, 2)]
    draws = [draw_like(chosen, every, seed) for seed in range(30)]
    assert all(sorted(layer for layer, _ in draw) == [1, 1, 4] for draw in draws)
    assert all(not set(draw) & set(chosen) for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 1
    assert draws[0] == draw_like(chosen, every, 0)
    most = [(1, 0), (1, 1), (1, 2), (4, 2)]  # layer 1 has but one other head
    assert sorted(layer for layer, _ in draw_like(most, every, 0)) == [1, 4, 4, 4]


def test_what_has_no_heads_is_refused():
    with pytest.raises(RegrowthError, match="shows no attention weights"):
        find_sites(model_of("mamba"))
    with pytest.raises(RegrowthError, match="shows no attention weights"):
        find_sites(model_of("bloom"))  # it has an attention of its own
    with pytest.raises(CheckpointError, match="no head 7 in layer 0"), ablated(find_sites(model_of("llama")), [(0, 7)]):
        pass


def test_layers_without_attention_have_no_heads():
    sites = find_sites(model_of("jamba"))
    assert 0 < len(sites) < 8
    assert Writer(model_of("jamba"), NoWords(), 2).reader.one_by_one
