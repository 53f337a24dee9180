"""A toy model with a planted truth: one head copies what followed the last word's earlier occurrence.

It is a GPT-2 of two layers. In layer 0 a head writes the word before each word beside it. In layer 1 head `COPIES`
looks for the place whose word before is the current word, and writes the word that stands there. Nothing else does
anything. A prompt ends with the last word of its question, so where that word stands just before the needle's answer,
the model writes the answer.
"""

import re

import torch

LEFT, COPIES = (0, 0), (1, 2)
WIDTH = 128  # of a head; the stream holds the word, the word before it, the position, and nothing
TEXT = " ".join(f"Haystack sentence number n{i} says nothing of importance today." for i in range(200))


def save_copying_model(folder):
    """Write the model and its tokenizer, which knows the words of our needles and of `TEXT`, and no punctuation."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = word_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=4 * WIDTH,
        n_layer=2,
        n_head=4,
        n_positions=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        _plant(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _plant(model):
    decoder = model.transformer
    words, before, places = (slice(part * WIDTH, (part + 1) * WIDTH) for part in range(3))
    signs = torch.randint(0, 2, (len(decoder.wte.weight), WIDTH)) * 2.0 - 1
    decoder.wte.weight[:, words] = signs
    speeds = torch.logspace(0, -2.5, WIDTH // 2)
    turns = torch.arange(len(decoder.wpe.weight))[:, None] * speeds
    decoder.wpe.weight[:, places] = torch.cat([turns.cos(), turns.sin()], 1)
    for norm in (decoder.ln_f, *(norm for block in decoder.h for norm in (block.ln_1, block.ln_2))):
        norm.weight.fill_(1)
    one = torch.eye(WIDTH)
    cos, sin = speeds.cos().diag(), speeds.sin().diag()
    back = torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])  # a place's vector times this: the last's
    _head(decoder.h[0].attn, LEFT[1], (places, 10 * back), (places, one), (words, one), (before, one))
    _head(decoder.h[1].attn, COPIES[1], (words, 10 * one), (before, one), (words, one), (words, 4 * one))


def _head(attention, head, query, key, value, output):
    """Set one head: from which part of the stream it takes each, to which it writes, and by which matrix."""
    mine = slice(head * WIDTH, (head + 1) * WIDTH)
    for number, (part, matrix) in enumerate((query, key, value)):
        start = number * 4 * WIDTH + head * WIDTH
        attention.c_attn.weight[part, start : start + WIDTH] = matrix
    attention.c_proj.weight[mine, output[0]] = output[1]


def word_tokenizer():
    """Words as tokens, without punctuation; its chat template is the message alone."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from prune.instruments.controls import FACTS, SUMS
    from prune.instruments.needles import NEEDLES

    texts = [TEXT, "Read the text below. Then answer the question that stands after it, in the words of the text."]
    texts += [f"{needle.text} {needle.question}" for needle in NEEDLES]
    texts += [f"{control.question} {control.opening} {control.answer}" for control in (*FACTS, *SUMS)]
    words = dict.fromkeys(re.findall(r"\w+", " ".join([*texts, "Question"])))
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["<end>", "<unk>", *words])}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\W+"), "removed")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")
    fast.chat_template = "{{ messages[0]['content'] }} "
    return fast
