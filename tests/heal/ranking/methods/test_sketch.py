"""The random projection: unbiased, close, and the same for the same seed."""

import torch

from heal.ranking.methods.sketch import CountSketch


def vectors(size=3000, cosine=0.3):
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, size, generator=draw)
    x, y = x / x.norm(), y - (y @ x) * x / x.norm() ** 2
    return x, cosine * x + (1 - cosine**2) ** 0.5 * y / y.norm()


def test_inner_products_are_unbiased():
    x, y = vectors()
    found = torch.tensor([float(s([x]) @ s([y])) for s in (CountSketch([3000], 64, seed=n) for n in range(400))])
    error = float(found.std()) / 400**0.5
    assert abs(float(found.mean()) - 0.3) < 4 * error
    assert 0.5 < float(found.std()) * 64**0.5 < 2  # about 1 / sqrt(k), as the source has it


def test_a_planted_cosine_is_found_to_within_its_error():
    x, y = vectors(20_000)
    sketch = CountSketch([20_000], 4096, seed=3)
    a, b = sketch([x]), sketch([y])
    assert abs(float(a @ b / (a.norm() * b.norm())) - 0.3) < 5 / 4096**0.5


def test_a_sketch_is_linear_and_follows_from_its_seed():
    x, y = vectors()
    whole, again, other = (CountSketch([3000], 128, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(whole([x]), again([x]))
    assert not torch.equal(whole([x]), other([x]))
    assert torch.allclose(whole([x + 2 * y]), whole([x]) + 2 * whole([y]), atol=1e-5)


def test_parts_have_places_of_their_own():
    x, _ = vectors()
    sketch = CountSketch([1000, 2000], 128, seed=0)
    alone = sketch([x[:1000], torch.zeros(2000)]) + sketch([torch.zeros(1000), x[1000:].view(20, 100)])
    assert torch.allclose(sketch([x[:1000], x[1000:]]), alone, atol=1e-5)
