"""EK-FAC by dattri-llm: its definition by other means, and the exact inverse where it must be exact."""

import importlib.util

import numpy as np
import pytest
import torch

from heal.models.adapters import add_adapter
from heal.models.lm_head import attach_loss
from heal.models.quantise import load_frozen
from heal.models.targets import find_targets
from heal.ranking.methods import ekfac
from heal.ranking.methods.ekfac import ek_fac_scores, rows_to_run
from heal.text.packing import IGNORED, Row, collate
from prune.checkpoint.source import locate
from prune.common.errors import RegrowthError
from tests.support.models import NARROW, save_tiny, tiny

needed = pytest.mark.skipif(importlib.util.find_spec("dattri_llm") is None, reason="dattri-llm is not installed")


def rows(count, vocabulary, seed):
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        tokens = draw.integers(3, vocabulary, int(draw.integers(6, 20))).astype(np.int32)
        labels = tokens.copy()
        labels[: 1 + number % 3] = IGNORED
        made.append(Row(tokens, np.arange(len(tokens), dtype=np.int32), labels))
    return made


def adapted(model, *, fresh=False):
    model.requires_grad_(False)
    targets = find_targets(model, "all")
    attach_loss(model)
    found = add_adapter(model, targets, rank=2, alpha=4, dropout=0.0, base="tiny").eval()
    draw = torch.Generator().manual_seed(0)
    for name, weight in found.named_parameters():
        if ".lora_" in name and not (fresh and ".lora_B." in name):
            weight.data = 0.1 * torch.randn(weight.shape, generator=draw)
    return found


def by_definition(model, documents, queries, names):
    """EK-FAC written down: gradients by autograd, covariances from hooks, one dense matrix for each LoRA matrix."""
    modules = dict(model.named_modules())

    def read(row):
        seen = {}

        def watch(name):
            def hook(_, given, output):
                output.retain_grad()
                seen[name] = (given[0].detach(), output)

            return hook

        hooks = [modules[name].register_forward_hook(watch(name)) for name in names]
        model.zero_grad()
        model(**collate([row]))["loss"].backward()
        for each in hooks:
            each.remove()
        gradients = [modules[name].weight.grad.double().clone() for name in names]
        return gradients, [(seen[name][0][0].double(), seen[name][1].grad[0].double()) for name in names]

    read_documents, read_queries = [read(row) for row in documents], [read(row) for row in queries]
    scores = torch.zeros(len(documents), len(queries), dtype=torch.float64)
    for number in range(len(names)):
        inputs, slopes = (torch.cat([reading[1][number][side] for reading in read_documents]) for side in (0, 1))
        inputs, slopes = inputs[slopes.any(1)], slopes[slopes.any(1)]  # tokens without a gradient say nothing
        turn_in = torch.linalg.eigh(inputs.T @ inputs / len(inputs))[1]
        turn_out = torch.linalg.eigh(slopes.T @ slopes / len(slopes))[1]
        turned = torch.stack([turn_out.T @ reading[0][number] @ turn_in for reading in read_documents])
        asked = torch.stack([turn_out.T @ reading[0][number] @ turn_in for reading in read_queries])
        squares = (turned**2).mean(0)
        scores += torch.einsum("dij,qij->dq", turned, asked / (squares + ekfac.DAMPING * squares.mean()))
    return scores.numpy()


@pytest.fixture
def strongly_damped(monkeypatch):
    """So that small eigenvalues, which fp32 does not know well, hardly count."""
    monkeypatch.setattr(ekfac, "DAMPING", 0.5)


def close(found, expected):
    return np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max()


@needed
@pytest.mark.usefixtures("strongly_damped")
def test_scores_are_those_of_the_definition(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = adapted(tiny(**NARROW))
    documents, queries = rows(12, model.config.vocab_size, 0), rows(3, model.config.vocab_size, 1)
    done = []
    found = ek_fac_scores(model, documents, queries, advance=done.append)
    names = [name for name in dict(model.named_modules()) if name.endswith((".lora_A.default", ".lora_B.default"))]
    assert close(found, by_definition(model, documents, queries, names))
    assert sum(done) == rows_to_run(12, 3, model) == 3 * 12 + 3
    assert not list(tmp_path.iterdir())  # the package would leave its scores where it runs


@needed
@pytest.mark.usefixtures("strongly_damped")
@pytest.mark.parametrize(("bits", "kind"), [(4, "Linear4bit"), (8, "Linear8bitLt")])
def test_a_quantised_base_is_passed_over(tmp_path, sample_model, bits, kind):
    folder = save_tiny(tmp_path / "tiny", sample_model, **NARROW)
    model = adapted(load_frozen(locate(folder), bits=bits, device="cpu", dtype="float32"))
    assert type(model.get_base_model().model.layers[0].mlp.up_proj.base_layer).__name__ == kind
    documents, queries = rows(6, model.config.vocab_size, 0), rows(2, model.config.vocab_size, 1)
    names = [name for name in dict(model.named_modules()) if name.endswith((".lora_A.default", ".lora_B.default"))]
    found = ek_fac_scores(model, documents, queries)
    assert close(found, by_definition(model, documents, queries, names))


@needed
@pytest.mark.usefixtures("strongly_damped")
def test_of_a_fresh_adapter_only_b_is_watched():
    model = adapted(tiny(**NARROW), fresh=True)
    documents, queries = rows(8, model.config.vocab_size, 0), rows(2, model.config.vocab_size, 1)
    names = [name for name in dict(model.named_modules()) if name.endswith(".lora_B.default")]
    found = ek_fac_scores(model, documents, queries)
    assert close(found, by_definition(model, documents, queries, names))


@needed
def test_queries_that_do_not_fit_at_once_are_taken_in_groups(monkeypatch):
    model = adapted(tiny(**NARROW))
    documents, queries = rows(5, model.config.vocab_size, 0), rows(5, model.config.vocab_size, 1)
    at_once = ek_fac_scores(model, documents, queries)
    size = 4 * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    monkeypatch.setattr(ekfac, "_QUERY_BYTES", 2 * size)
    done = []
    assert close(ek_fac_scores(model, documents, queries, advance=done.append), at_once)
    assert sum(done) == rows_to_run(5, 5, model) == (2 + 3) * 5 + 5


@needed
def test_a_document_that_stands_twice_has_one_score_and_counts_once():
    model = adapted(tiny(**NARROW))
    documents, queries = rows(6, model.config.vocab_size, 0), rows(2, model.config.vocab_size, 1)
    once = ek_fac_scores(model, documents, queries)
    twice = ek_fac_scores(model, [documents[2], *documents], queries)
    assert close(twice, once[[2, 0, 1, 2, 3, 4, 5]])
    assert np.array_equal(twice[0], twice[3])


class Products(torch.nn.Module):
    """The loss is <slope, W input> of one token: its gradient by W is the outer product, whatever W is."""

    def __init__(self, inputs, slopes):
        super().__init__()
        self.inner = torch.nn.ModuleDict(
            {"lora_B": torch.nn.ModuleDict({"default": torch.nn.Linear(4, 3, bias=False)})}
        )
        self.inputs, self.slopes = inputs, slopes

    def forward(self, input_ids, position_ids, labels):
        out = self.inner["lora_B"]["default"](self.inputs[input_ids])
        return {"loss": (out * self.slopes[labels]).sum()}


@needed
def test_the_inverse_is_exact_where_the_gradients_fill_single_cells_of_the_eigenbasis():
    """Inputs and slopes are of two orthogonal bases, so that each gradient fills one cell of U_out^T dW U_in.

    The Fisher matrix is diagonal in that basis then, which is all that EK-FAC assumes. K-FAC assumes more: that which
    input it is says nothing of which slope it is, and here it does.
    """
    draw = np.random.default_rng(0)
    turn_in, turn_out = (torch.from_numpy(np.linalg.qr(draw.normal(size=(n, n)))[0]).float() for n in (4, 3))
    lengths = torch.tensor([0.5, 1.0, 1.5, 2.0])
    model = Products(turn_in * lengths[:, None], turn_out)
    pairs = [(number % 4, (number * number) % 3) for number in range(14)]
    made = [Row(*(np.array([value], dtype=np.int32) for value in (i, 0, o))) for i, o in pairs]
    asked = [Row(*(np.array([value], dtype=np.int32) for value in (i, 0, o))) for i, o in ((0, 0), (1, 1), (3, 0))]
    unlike = list({(row.tokens[0], row.labels[0]): row for row in made}.values())

    def gradient(row):
        return torch.outer(model.slopes[row.labels[0]], model.inputs[row.tokens[0]]).flatten().double()

    table = torch.stack([gradient(row) for row in unlike])
    fisher = table.T @ table / len(unlike)
    damped = fisher + 0.1 * fisher.diagonal().mean() * torch.eye(12, dtype=torch.float64)
    expected = torch.stack([gradient(row) for row in made]) @ torch.linalg.solve(
        damped, torch.stack([gradient(row) for row in asked]).T
    )
    assert close(ek_fac_scores(model, made, asked), expected.numpy())


@needed
def test_without_an_adapter_there_is_a_clear_line():
    with pytest.raises(RegrowthError, match="needs an adapter"):
        ek_fac_scores(tiny(**NARROW), rows(2, 50, 0), rows(1, 50, 1))


def test_without_the_package_the_line_names_what_to_install(monkeypatch):
    monkeypatch.setattr(ekfac, "_PACKAGE", "no_such_package")
    with pytest.raises(RegrowthError, match=r"pip install 'regrowth\[influence\]'"):
        ek_fac_scores(None, [], [])
