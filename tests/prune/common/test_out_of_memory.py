"""Memory that runs out, wherever it does: one line that says what needs less, and blames nothing else."""

import errno

import pytest
import torch
import typer
from typer.testing import CliRunner

from eval.cli import app as evaluate
from heal.cli import app as heal
from prune.checkpoint.source import locate
from prune.cli import app as prune
from prune.common.machine.out_of_memory import describe_out_of_memory, is_out_of_memory
from prune.models.loading import load_model

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.12 GiB is free."
)
SWEEP = "sweep M --data d --domains medical --out o"
ERRORS = [
    torch.OutOfMemoryError(CUDA),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB)"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_kind_is_known(error):
    assert is_out_of_memory(error)


def test_other_errors_are_not_taken_for_it():
    static = OSError("libgomp.so: cannot allocate memory in static TLS block")
    others = [RuntimeError("shapes differ"), static, OSError(errno.ENOSPC, "No space left"), KeyError("a")]
    assert not any(map(is_out_of_memory, others))


def test_only_what_is_not_done_already_is_advised():
    options = {"--batch-size": 1, "--length": 512, "--bits": 4, "--device": "auto", "--out": "x"}
    assert describe_out_of_memory(torch.OutOfMemoryError(CUDA), options) == (
        "out of memory (2.00 GiB more did not fit); what needs less: a smaller --length, --device cpu"
    )
    assert describe_out_of_memory(MemoryError(), {"--device": "auto"}) == "out of memory"  # it is the CPU's


@pytest.mark.parametrize(
    ("app", "words", "function", "advised", "not_advised"),
    [
        (heal, "qlora M --out o", "heal.training.qlora.qlora", "--batch-size, --length", "--bits"),
        (heal, "qlora M --out o --bits 16", "heal.training.qlora.qlora", "--bits 4", "--max-length"),
        (heal, "qlora M --out o --checkpointing off", "heal.training.qlora.qlora", "--checkpointing on", ""),
        (heal, "merge A --out o", "heal.merging.merge.merge", "--no-compare-logits, --device cpu", "--batch-size"),
        (prune, "scan M --out o", "prune.scanning.scan.scan", "--max-memory, --load-in-4bit", "--bits"),
        (prune, "cut M --n 2 --out o", "prune.cutting.planning.plan_cut", "--max-memory, --check 0", "--bits"),
        (prune, "time M", "prune.choosing.timing.time_layers", "--max-memory", "--batch-size"),
        (evaluate, SWEEP, "eval.sweeps.run.sweep", "--batch-tokens", "--batch-size"),
    ],
)
def test_a_command_names_options_of_its_own(monkeypatch, app, words, function, advised, not_advised):
    def fail(*_, **__):
        raise torch.OutOfMemoryError(CUDA)

    monkeypatch.setattr(function, fail)
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: out of memory (2.00 GiB more did not fit); what needs less: ")
    assert "bug" not in line
    assert "layer by layer" not in line  # `prune time` does not run so
    named = {word for word in line.replace(",", " ").split() if word.startswith("--")}
    assert all(option in line for option in advised.split(", ")), line
    assert not_advised not in named
    parameters = typer.main.get_command(app).commands[words.split()[0]].params
    assert named <= {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}


def test_a_model_that_does_not_fit_is_no_damaged_checkpoint(monkeypatch, tiny_llama):
    def fail(*_, **__):
        raise torch.OutOfMemoryError(CUDA)

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(torch.OutOfMemoryError):
        load_model(locate(tiny_llama))
