"""A patch that a model does not take is passed over where it is asked for, and the cut stands in its place."""

import json

from heal import DistillSettings, distill
from prune import cut, plan_cut, verify_cut
from tests.support.checkpoints import same_weights
from tests.support.commands import check_refused, run, succeed
from tests.support.healing import SMALL, quiet


def test_a_cut_that_takes_no_patch_is_left_as_it_is_and_heals_on(tiny_llama, small_text, sample_text, tmp_path):
    pruned = cut(plan_cut(tiny_llama, n=2, start=0), tmp_path / "pruned", show_progress=False)  # no layer before it
    words = ("--teacher", tiny_llama, "--text", sample_text, "--tokens", 512, "--length", 64)
    out = tmp_path / "patched"
    check_refused(run("heal", "patch", pruned, *words, "--out", out), 1, "nothing can take a fold")
    assert not out.exists()
    told = json.loads(succeed("heal", "patch", pruned, *words, "--out", out, "--pass-over", "--json").stdout)
    assert "nothing can take a fold" in told["passed_over"]
    assert same_weights(out, pruned)
    assert verify_cut(tiny_llama, out).sound
    assert not (out / "heal.json").exists()
    again = succeed("heal", "patch", pruned, *words, "--out", out, "--pass-over", "--overwrite")
    assert "Patch passed over: " in " ".join(again.stdout.split())
    adapter = tmp_path / "adapter"
    healed = distill(out, tiny_llama, small_text, adapter, settings=DistillSettings(**SMALL), run=quiet("128"))
    assert healed.record.own_tensors == ()


def test_what_is_wrong_is_not_passed_over(pruned, tiny_llama, sample_text, tmp_path):
    words = ("--teacher", tiny_llama, "--text", sample_text, "--length", 64, "--out", tmp_path / "out", "--pass-over")
    check_refused(run("heal", "patch", pruned, *words, "--tokens", 1), 2, "less than one row")
