"""Scores of heads by plain loops over a whole forward pass, to hold the instrument to."""

import torch


class NoWords:
    """As much of a tokenizer as the writing of answers needs."""

    eos_token_id = None

    def get_vocab(self):
        return {}

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


def reference_scores(model, prompt, written, after=None):
    """Copy and write score of every head, (L, H) each, for one prompt and the tokens that were written after it.

    The model is run once over all of it, without a cache, with its own eager attention.

    Args:
        after: name of the norm that a layer puts behind its attention; None for none.
    """
    ids = torch.tensor([list(prompt.ids) + list(written)])
    first = len(prompt.ids) - 1  # the place that the first token was written from
    layers = model.model.layers
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    values, outs, last = [], [], []
    handles = [layers[-1].register_forward_hook(lambda _m, _a, out: last.append(_tensor(out)))]
    for layer in layers:
        handles.append(layer.self_attn.v_proj.register_forward_hook(lambda _m, _a, out: values.append(out[0])))
        handles.append(layer.self_attn.o_proj.register_forward_hook(lambda _m, _a, out: outs.append(out[0])))
    with torch.no_grad():
        weights = model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    model.set_attn_implementation(before)
    for handle in handles:
        handle.remove()
    heads, width = weights[0].shape[1], layers[0].self_attn.head_dim
    span = range(prompt.start, prompt.stop)
    wanted = {int(ids[0, place]) for place in span}
    copied = [[set() for _ in range(heads)] for _ in layers]
    write = torch.zeros(len(layers), heads)
    for step, token in enumerate(written):
        place = first + step
        upward = _gradient(model, last[0][0, place], token)
        for number, layer in enumerate(layers):
            ours = upward
            if after is not None:
                norm = getattr(layer, after)
                ours = torch.autograd.functional.vjp(norm, outs[number][place][None], upward[None])[1][0]
            matrix = layer.self_attn.o_proj.weight.detach()
            for head in range(heads):
                attended = weights[number][0, head, place, : place + 1]
                value = values[number].view(len(ids[0]), -1, width)
                value = value[:, head * value.shape[1] // heads]
                each = [float(attended[j] * (ours @ matrix[:, head * width : (head + 1) * width] @ value[j]))
                        for j in range(place + 1)]  # fmt: skip
                seen = [j for j in range(place + 1) if attended[j] > 0]
                inside = [j for j in seen if j in span]
                share = len(inside) / max(1, len(seen) - len(inside))
                needle = sum(each[j] for j in inside)
                write[number, head] += (needle - share * (sum(each) - needle)) / len(written)
                top = int(attended.argmax())
                if top in span and int(ids[0, top]) == token:
                    copied[number][head].add(token)
    copy = torch.tensor([[len(tokens) / len(wanted) for tokens in row] for row in copied])
    return copy, write


def _gradient(model, state, token):
    state = state.detach().requires_grad_()
    logits = model.lm_head(model.model.norm(state[None]))[0]
    if (cap := getattr(model.config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    return torch.autograd.grad(logits[token], state)[0]


def _tensor(output):
    return output[0] if isinstance(output, tuple) else output
