"""Cut, patch, distill and merge, end to end on files: each row is one command's function."""

from __future__ import annotations

from bench.gpu_steps.measuring import Machine, measured
from bench.gpu_steps.random_models import checkpoint_on_disk
from bench.gpu_steps.shapes import CUTS, small


def files(machine: Machine) -> None:
    from heal import DistillSettings, PatchSettings, TextSource, distill, merge, patch
    from heal.settings import Measuring, PatchRun, TrainingRun
    from prune import cut, plan_cut
    from prune.common.errors import RegrowthError

    folder, text = checkpoint_on_disk(machine)
    start, n = CUTS[small(machine)]
    pruned, adapter = machine.work / "pruned", machine.work / "adapter"
    length = machine.pick(64, 512)
    words = TextSource(str(text), held_out_tokens=machine.pick(512, 8192))
    with measured(machine, "prune cut --link"):
        cut(plan_cut(str(folder), n=n, start=start, show_progress=False), pruned, link=True, show_progress=False)
    with measured(machine, "heal patch") as facts:
        try:
            run = PatchRun(tokens=machine.pick("1k", "20k"), device=machine.device, show_progress=False)
            settings = PatchSettings(length=length)
            patched = patch(str(pruned), str(folder), words, machine.work / "patched", settings=settings, run=run)
            facts["note"] = f"{len(patched.to_json()['folds'][0]['candidates'])} candidates"
        except RegrowthError as error:  # of random weights there may be no better patch than none
            facts["note"] = str(error)[:120]
    rows, steps = machine.pick(2, 4), 4
    distilling = DistillSettings(
        length=length, batch_size=rows, accumulate=1, rank=machine.pick(4, 64), bits=4, dtype="bfloat16"
    )
    with measured(machine, "heal distill, 4 steps, a checkpoint after 2") as facts:
        training = TrainingRun(tokens=steps * rows * length, device=machine.device, save_every=2, show_progress=False)
        healed = distill(str(pruned), str(folder), words, adapter, settings=distilling, run=training).record
        facts["note"] = f"{healed.training_seconds:.1f} s of steps, {healed.tokens_per_second:.0f} tokens/s"
    for base in ("dequantised", "auto"):
        with measured(machine, f"heal merge --base {base}") as facts:
            measuring, out = Measuring(device=machine.device), machine.work / f"merged-{base}"
            merged = merge(adapter, out, base=base, measuring=measuring, show_progress=False).to_json()["merge"]
            facts["note"] = f"{merged['base']}, KL {merged.get('agreement', {}).get('kl', -1):.2g}"
