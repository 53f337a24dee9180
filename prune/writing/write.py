"""`prune write`: text that a model writes itself, for `--text` of whatever reads text."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.companions import model_files
from prune.checkpoint.identity import model_identity, work_identity
from prune.checkpoint.source import Source, locate
from prune.common.checked import checks_arguments
from prune.common.errors import CheckpointError, UsageError, first_line
from prune.common.files.outputs import check_files_apart, free_file, sync
from prune.common.files.provenance import provenance
from prune.common.files.resume import Unfinished
from prune.common.machine.processes import rank_and_world
from prune.common.screen.terminal import progress
from prune.common.thinking import MODES
from prune.text.documents import local_files
from prune.text.windows import named_sources, text_identity
from prune.writing.asking import DOCUMENT, FIELDS, Asker, Counts, check_room, read_prompts
from prune.writing.result import Written, WrittenPart
from prune.writing.settings import WriteSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from prune.models.generation import Sampling
    from prune.writing.prompts import Prompt
    from prune.writing.rows import WrittenRow
    from prune.writing.writers import Writer

_DRAWN = {"temperature": 0.7, "top_p": 0.95, "top_k": 0}  # where neither the user nor the model says
_RANGES: dict[str, Callable[[float], bool]] = {
    "temperature": lambda value: 0 <= value < math.inf,
    "top_p": lambda value: 0 < value <= 1,
    "top_k": lambda value: value >= 0,
}
_TYPICAL = 512  # tokens of a prompt, to size batches where its length is not known
_FEW = "give more --prompts, raise --answer-tokens, or ask for fewer --tokens"
_APART = ("tokens", "backend_args", "device_map", "batch_size")  # settings that no row hangs on, or that are kept apart


@checks_arguments
def write(
    model: str | Path,
    prompts: str | Sequence[str],
    out: str | Path,
    *,
    settings: WriteSettings | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    show_progress: bool = True,
) -> Written:
    """Have a model answer prompts, and write both as rows of text (SSGR, arXiv 2511.18864, calibrates on such).

    Args:
        model: a model folder or a hub id.
        prompts: SOURCE as in `prune.text.documents`, or several, in turns. A row is asked by the first of its fields
            `prompt`, `question` (with its `choices`), `messages` (up to the first answer) and `text` (a document that
            the model goes on from); a line of a .txt file is a prompt.
        out: the .jsonl file. It appears whole; until then the rows grow in a hidden file beside it.
        settings: the defaults if None.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run Python code that comes with the model.
        overwrite: replace `out`, and what an interrupted run has left.
        resume: go on with an interrupted run of the same model, prompts and settings; its rows are kept.
        show_progress: show progress with ETA on stderr.

    Raises:
        UsageError: an option is out of range, does not fit the model, or differs from the run that is gone on with.
        TextError: the prompts are missing or cannot be asked, or all that the model writes cannot be kept.
        CheckpointError: not a model that can be loaded.
        RegrowthError: `out` exists, or is read; or the backend is not there.
    """
    out, settings = free_file(out, overwrite=overwrite), settings or WriteSettings()
    if not out.name.endswith(".jsonl"):
        raise UsageError(f"--out {out}: the text is written as JSON lines; give the file the ending .jsonl")
    if rank_and_world()[1] > 1:
        raise UsageError("prune write runs in one process; on several GPUs use --device-map auto or --backend vllm")
    if trust_remote_code and settings.backend == "vllm":
        raise UsageError("--trust-remote-code is for --backend hf alone")
    sources = named_sources(prompts, "--prompts")
    check_files_apart({"--out": out}, *model_files(model), *local_files(sources))
    unfinished = Unfinished.beside(out, resume=resume, overwrite=overwrite)
    plan = _plan(model, sources, settings, revision=revision, trust_remote_code=trust_remote_code)
    with _writer(plan, show_progress=show_progress) as (writer, ran):
        facts = {**plan.facts, **ran}
        batch, rows = unfinished.read(facts, lambda state, _: int(state["batch_size"])), unfinished.beside_it(".rows")
        if batch is None:
            batch = settings.batch_size or writer.at_once
            rows.unlink(missing_ok=True)
            unfinished.write({"batch_size": batch}, {})
        try:
            counts = _fill(plan, writer, rows, batch, show_progress=show_progress)
        finally:
            if not rows.exists() or not rows.stat().st_size:
                unfinished.clear()  # nothing to go on with
    written = _written(plan, out, rows, batch, counts, ran)
    free_file(out, overwrite=overwrite)  # another run may have made it meanwhile
    rows.replace(out)
    sync(out.parent)
    unfinished.clear()
    return written


@dataclass(frozen=True)
class _Plan:
    """What is asked of which model, settled before it is loaded.

    Attributes:
        sampling: None: always the likeliest token.
        limit: tokens of a prompt and its answer; None where there is no bound.
        room: of a prompt.
        identity, asked: of the model and of the sources, for provenance.
        facts: what every row hangs on.
    """

    source: Source
    tokenizer: PreTrainedTokenizerBase
    asker: Asker
    sources: tuple[str, ...]
    settings: WriteSettings
    sampling: Sampling | None
    limit: int | None
    room: int | None
    trust_remote_code: bool
    identity: dict[str, Any]
    asked: list[dict[str, Any]]
    facts: dict[str, Any]

    def prompts(self, counts: Counts) -> Iterator[Prompt]:
        again = self.sampling is not None  # the likeliest words are the same every time
        return read_prompts(self.asker, self.sources, self.settings, room=self.room, again=again, counts=counts)


def _plan(
    model: str | Path,
    sources: tuple[str, ...],
    settings: WriteSettings,
    *,
    revision: str | None,
    trust_remote_code: bool,
) -> _Plan:
    """Settle it, and refuse what cannot be done before the model is loaded. See `write`."""
    from prune.models.loading import context_length, load_tokenizer
    from prune.models.spread import check_spread
    from prune.models.vllm.options import altering, engine_device, parse_engine_options
    from prune.writing.writers import vllm_limit

    check_spread(settings.device_map, settings.device)
    if settings.backend == "vllm":
        parse_engine_options(settings.backend_args)
        engine_device(settings.device)
    source = locate(model, revision=revision, code=trust_remote_code)
    sampling = settle_sampling(source.folder, settings)
    limit = context_length(source, trust_remote_code=trust_remote_code)
    if settings.max_length is not None:
        limit = min(settings.max_length, limit or settings.max_length)
    elif settings.backend == "vllm":
        limit = vllm_limit(limit, 0, settings.answer_tokens)
    room = check_room(limit, settings)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    asker = Asker(tokenizer, settings)
    identity = model_identity(source.folder, name=source.name, commit=source.commit)
    asked = [text_identity(each, settings.field or ",".join(FIELDS)) for each in sources]
    facts = {
        "model": work_identity(source.folder, identity),
        "prompts": [each["sha256"] or each["source"] for each in asked],
        **{name: value for name, value in asdict(settings).items() if name not in _APART},
        "backend_args": altering(parse_engine_options(settings.backend_args)),
    }
    if settings.batch_size is not None:
        facts["batch_size"] = settings.batch_size
    plan = _Plan(
        source, tokenizer, asker, sources, settings, sampling, limit, room, trust_remote_code, identity, asked, facts
    )
    next(plan.prompts(Counts()))  # what is wrong with the prompts shows before the model is loaded
    return plan


def settle_sampling(folder: Path, settings: WriteSettings) -> Sampling | None:
    """How tokens are drawn: as the settings say, then the model's generation_config.json, then we. None: not at all.

    Raises:
        CheckpointError: generation_config.json cannot be read, or states what cannot be drawn by.
    """
    from prune.models.generation import Sampling

    stated: dict[str, Any] = {}
    path = folder / "generation_config.json"
    if path.is_file():
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read as JSON ({first_line(error)})") from None
        if not isinstance(stated, dict):
            raise CheckpointError(f"{path} holds no JSON object; mend it, or remove it")

    def settled(name: str) -> Any:
        given, value = getattr(settings, name), stated.get(name)
        if given is not None or value is None:
            return _DRAWN[name] if given is None else given
        kinds = (int,) if name == "top_k" else (int, float)
        if type(value) not in kinds or not _RANGES[name](value):
            flag = "--" + name.replace("_", "-")
            raise CheckpointError(f"{path}: nothing can be drawn by its {name} {value!r}; mend it, or give {flag}")
        return value

    temperature = settled("temperature")
    return Sampling(temperature, settled("top_p"), settled("top_k")) if temperature > 0 else None


@contextmanager
def _writer(plan: _Plan, *, show_progress: bool) -> Iterator[tuple[Writer, dict[str, Any]]]:
    """The model, ready to write, and what it runs on."""
    from prune.models.generation import USUAL
    from prune.models.loading import pick_device
    from prune.models.precision import pick_dtype
    from prune.models.vllm.options import engine_device, parse_engine_options, vllm_version
    from prune.models.whole import load_whole
    from prune.writing.writers import transformers_writer, vllm_writer

    settings, sampling = plan.settings, plan.sampling or USUAL
    if settings.backend == "vllm":
        device, engine = engine_device(settings.device), dict(parse_engine_options(settings.backend_args))
        dtype = str(pick_dtype(settings.dtype, device=device)).removeprefix("torch.")
        assert plan.limit is not None
        how: Mapping[str, Any] = {"limit": plan.limit, "device": settings.device, "dtype": settings.dtype}
        with vllm_writer(plan.source, plan.tokenizer, **how, engine=engine, sampling=sampling) as writer:
            yield writer, {"device": device.partition(":")[0], "dtype": dtype, "vllm": vllm_version()}
        return
    device = pick_device(settings.device)
    with progress("Loading the model", None, shown=show_progress):
        loaded = load_whole(
            plan.source,
            dtype=pick_dtype(settings.dtype, device=device),
            device=device,
            spread=settings.device_map is not None,
            trust_remote_code=plan.trust_remote_code,
        )
    tokens = min(plan.limit or _TYPICAL + settings.answer_tokens, _TYPICAL + settings.answer_tokens)
    dtype = str(loaded.dtype).removeprefix("torch.")
    writer = transformers_writer(loaded, plan.tokenizer, tokens=tokens, sampling=sampling)
    yield writer, {"device": device.partition(":")[0], "dtype": dtype}


def _fill(plan: _Plan, writer: Writer, rows: Path, batch: int, *, show_progress: bool) -> Counts:
    """Write rows until there are as many tokens as were asked for; those that are there already are kept."""
    from prune.writing.rows import WrittenRow, answer_words, write_rows

    tokenizer, settings, counts = plan.tokenizer, plan.settings, Counts()

    def make(prompt: Prompt, ids: list[int], finished: bool, number: int) -> WrittenRow | None:
        words = answer_words(tokenizer, ids)
        if not words.strip() or (settings.finished_only and not finished):
            return None
        end = finished and ids[-1] == tokenizer.eos_token_id  # another end of a turn is part of the text
        said = tokenizer.decode(ids[:-1] if end else ids)
        messages = (
            None if prompt.messages is None else [*prompt.messages, {"role": "assistant", "content": words.strip()}]
        )
        return WrittenRow(
            text=prompt.text + said,
            prompt=prompt.text,
            answer=words,
            tokens=len(ids) - finished,
            finished=finished,
            prompt_tokens=len(prompt.ids),
            batch=number,
            messages=messages,
            source=prompt.source,
            kind=prompt.kind,
            model=plan.source.name,
        )

    seed = None if plan.sampling is None else settings.seed
    with progress("Writing (tokens)", settings.budget, shown=show_progress) as bar:
        write_rows(
            writer,
            plan.prompts(counts),
            rows,
            make,
            at_once=batch,
            tokens=settings.budget,
            answer_tokens=settings.answer_tokens,
            seed=seed,
            few=_FEW if plan.sampling else f"at temperature 0 a second round would say the same; {_FEW}",
            advance=bar.advance,
        )
    return counts


def _written(plan: _Plan, out: Path, rows: Path, batch: int, counts: Counts, ran: dict[str, Any]) -> Written:
    with rows.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    parts = []
    for kind in (*MODES, DOCUMENT):
        if of_kind := [row for row in lines if row["kind"] == kind]:
            answers = sum(row["tokens"] for row in of_kind)
            parts.append(
                WrittenPart(
                    kind=kind,  # type: ignore[arg-type]
                    rows=len(of_kind),
                    tokens=answers + sum(row["prompt_tokens"] + 1 for row in of_kind),
                    answer_tokens=answers,
                    finished=sum(row["finished"] for row in of_kind),
                )
            )
    settings = plan.settings
    return Written(
        model=plan.source.name,
        out=os.fspath(out),
        rows=len(lines),
        tokens=sum(part.tokens for part in parts),
        kinds=tuple(parts),
        rounds=counts.rounds,
        too_long=counts.too_long,
        empty=counts.empty,
        sampling=None if plan.sampling is None else {name: float(v) for name, v in asdict(plan.sampling).items()},
        chat_template=plan.asker.templated,
        batch_size=batch,
        provenance=provenance(
            model=plan.identity,
            prompts=plan.asked,
            settings=json.loads(json.dumps(asdict(settings))),  # lists, as the file has them
            **ran,
        ),
    )
