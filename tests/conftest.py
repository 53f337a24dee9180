"""The real sample (made by `make sample`), small random models, and the CPU that the tests run as."""

import os
import runpy
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("steady", deadline=None)  # a busy machine is no failure
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / ".sample"


# What an x86-64 CPU without AVX-512 answers to torch and to its library of products.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--avx2", action="store_true", help="run on any newer CPU as one with AVX2 would")
    parser.addoption("--world", action="store_true", help="run the checks of tests/world, which install other tools")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make check-world` alone runs tests/world: it needs PyPI, and minutes."""
    return True if collection_path == ROOT / "tests" / "world" and not config.getoption("--world") else None


def pytest_configure(config: pytest.Config) -> None:
    _guard_network()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job: tests of Ctrl-C would wait
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--avx2"):  # before torch is imported, here and in every process that a test starts
        os.environ.update(AVX2)


def _guard_network() -> None:
    """Nothing that a test does, or a Python that it starts, reaches a host but this machine."""
    folder = str(ROOT / "tests" / "support" / "no_network")
    runpy.run_path(f"{folder}/sitecustomize.py")
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, paths)])


@pytest.fixture(scope="session", autouse=True)
def older_cpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --avx2, bitsandbytes too believes that the CPU has no bf16 products; it asks the CPU, not torch."""
    if not request.config.getoption("--avx2"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
        yield


def _sample(name: str) -> Path:
    path = SAMPLE / name
    if not path.exists():
        pytest.fail(f"{path} is missing: run `make sample` first", pytrace=False)
    return path


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Answers that commands keep go to a folder of the tests, never to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def sample_model() -> Path:
    """SmolLM2-135M-Instruct: 30 layers, fp32 safetensors."""
    return _sample("model")


@pytest.fixture(scope="session")
def sample_text() -> Path:
    """Wikipedia passages (field `text`) to scan and heal on."""
    return _sample("text.jsonl")


@pytest.fixture(scope="session")
def sample_heldout() -> Path:
    """Passages of other articles than those of `sample_text`."""
    return _sample("heldout.jsonl")


@pytest.fixture(scope="session")
def short_heldout(sample_heldout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 12 of those passages."""
    path = tmp_path_factory.mktemp("heldout") / "short.jsonl"
    path.write_text("".join(sample_heldout.read_text().splitlines(keepends=True)[:12]))
    return path


@pytest.fixture(scope="session")
def sample_questions() -> Path:
    """Folder of question files, one JSON object a line."""
    return _sample("questions")


@pytest.fixture(scope="session")
def tiny_llama(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 8 layers, width 32, with a part of the sample model's tokenizer."""
    from tests.support.models import NARROW, save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny") / "llama", sample_model, layers=8, **NARROW)
