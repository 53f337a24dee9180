"""Which GPU works, where there are several: by a stand-in for torch.cuda, as no GPU is needed to choose one."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState

from prune.common.errors import RegrowthError, UsageError
from prune.common.machine.memory import peak_memory
from prune.common.machine.processes import gather
from prune.models.loading import pick_device
from tests.support.commands import check_refused, error_line, run


@pytest.fixture
def fresh_state():
    """accelerate remembers the first device and group of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def two_gpus(monkeypatch, fresh_state):
    """torch as it is with two GPUs, of which the current one is noted; nothing can be put on them."""
    current = ["cuda:0"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(str(device)))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA stand-in")
    return current


def test_a_gpu_is_picked_by_its_number(two_gpus, monkeypatch):
    assert pick_device("auto") == pick_device("cuda") == "cuda"
    assert two_gpus == ["cuda:0"]
    assert pick_device("cuda:1") == "cuda:1"
    assert two_gpus[-1] == "cuda:1"  # and is what libraries mean by cuda
    for name in ("cuda:2", "cuda:7", "cuda:x", "cuda:-1"):
        with pytest.raises(RegrowthError, match=f"--device {name} is not on this machine: there are cuda:0 to cuda:1"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RegrowthError, match="there is cuda:0 alone"):
        pick_device("cuda:1")


def test_each_of_several_processes_has_its_own(two_gpus, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == pick_device("cuda") == "cuda:1"
    assert pick_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="--device cuda:0 is one GPU, and 2 processes were started: use --device cuda"):
        pick_device("cuda:0")


@pytest.mark.parametrize(
    "words",
    [
        "prune scan MODEL --text TEXT --out OUT",
        "heal qlora MODEL --text TEXT --out OUT",
        "heal patch MODEL --teacher MODEL --text TEXT --out OUT",
        "evaluate run MODEL --data QUESTIONS --domains medical --out OUT",
    ],
)
def test_a_gpu_that_is_not_there_is_one_line(words, tiny_llama, sample_text, sample_questions, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    named = {"MODEL": tiny_llama, "TEXT": sample_text, "QUESTIONS": sample_questions, "OUT": tmp_path / "out"}
    done = run(*(named.get(word, word) for word in words.split()), "--device", "cuda:7")
    check_refused(done, 1, "error: --device cuda:7: torch ")
    assert error_line(done.stderr).endswith("has no GPU here; use --device cpu or auto")
    assert not list(tmp_path.iterdir())


def test_a_peak_is_that_of_the_device_that_worked(two_gpus, monkeypatch):
    peaks = {None: 0, 1: 11}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: peaks[device and device.index])
    assert peak_memory("cuda:1")["cuda_bytes"] == 11
    assert peak_memory("cuda")["cuda_bytes"] == 0  # the current one
    assert "cuda_bytes" not in peak_memory("cpu")


def test_a_model_is_trained_where_it_was_loaded(two_gpus, tmp_path):
    """On one of two GPUs: it is neither moved to the first one nor copied to both."""
    from heal.training.loop import _accelerator

    accelerator = _accelerator(torch.device("cuda:1"), tmp_path, "none")
    model = torch.nn.Linear(2, 2, device="meta")  # cannot be moved
    assert accelerator.prepare(model) is model
    assert model.weight.device.type == "meta"
    assert accelerator.num_processes == 1
    on_cpu = torch.nn.Linear(2, 2)  # after a run on a GPU, one on the CPU
    assert _accelerator(torch.device("cpu"), tmp_path, "none").prepare(on_cpu) is on_cpu


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:1", "nccl")])
def test_processes_wait_for_one_that_writes_for_hours(device, backend, two_gpus, monkeypatch):
    """The group of processes is not given up after NCCL's ten minutes, while one lets the full model write."""
    from heal.training.run import _join

    given = {}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **named: given.update(named))
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    launched = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "29500"}
    for name, value in {**launched, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    _join(SimpleNamespace(run=SimpleNamespace(device=device)))
    assert given["backend"] == backend
    assert given["timeout"] >= timedelta(hours=24)


def test_a_lone_gather_is_as_patient(monkeypatch):
    """`prune scan` by several processes: the slowest share may take long."""
    given = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **named: given.update(named))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda values, value: values.__setitem__(0, value))
    assert gather("mine")[0] == "mine"
    assert given["timeout"] >= timedelta(hours=24)


def test_activations_are_checkpointed_by_old_and_new_names():
    """transformers has called it `activation_checkpointing_enable` since 5.23."""
    from heal.models.adapters import checkpoint_activations

    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        asked = []
        checkpoint_activations(SimpleNamespace(**{name: asked.append}))
        assert asked == [{"use_reentrant": False}]
