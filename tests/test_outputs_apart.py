"""No command replaces what it reads, whatever `--overwrite` says: every command that writes, by every input of it."""

import inspect
import shutil
from contextlib import contextmanager
from importlib import import_module

import pytest

from heal import TextSource
from prune import cut, plan_cut
from prune.common.programs import PROGRAMS
from tests.support.checkpoints import hand_made_scan
from tests.support.commands import check_refused, run
from tests.support.healing import heal_small
from tests.support.texts import sentences, write_jsonl

# Command -> each parameter that names what is read -> a command line, with {} in its place.
TRAINED = {
    "model": "{} --text t.jsonl",
    "--text": "m --text {}",
    "--held-out": "m --text t.jsonl --held-out {}",
    "--domain-text": "m --text t.jsonl --domain-text law={}",
}
TAUGHT = {
    **{name: f"{words} --teacher m" for name, words in TRAINED.items()},
    "--teacher": "m --text t.jsonl --teacher {}",
    "--prompts": "m --text t.jsonl --teacher m --teacher-data self --prompts {}",
}
DATA = "--data d --domains math"
QUESTIONS = {"--data": "m --data {} --domains math", "--text": f"m {DATA} --text {{}}"}
ASKED = {
    **QUESTIONS,
    "--include-path": "m --tasks sums --include-path {}",
    "--prompts": f"m {DATA} --thinking fast --prompts {{}}",
    "--needle-text": f"m {DATA} --needles --needle-text {{}}",
    "--cache": f"m {DATA} --cache {{}}",
}
FOLDERS = {
    "prune cut": {
        "model": "{} --n 1",
        "--text": "m --n 1 --text {}",
        "--scan": "m --n 1 --scan {}",
        "--costs": "m --n 1 --criterion domain --costs {}",
        "--heads": "m --n 1 --heads {}",
        "--times": "m --speed 1.3x --context 1k --times {}",
    },
    "prune plot": {"scan": "{}"},
    "heal qlora": TRAINED,
    "heal distill": TAUGHT,
    "heal finalists": TAUGHT,
    "heal patch": {
        **{name: words for name, words in TRAINED.items() if name != "--domain-text"},
        "--teacher": "m --text t.jsonl --teacher {}",
    },
    "heal merge": {
        "adapter": "{}",
        "--model": "m --model {}",
        "--full": "m --adapter-only --full {}",
        "--held-out": "m --held-out {}",
    },
    "evaluate prepare": {"--from": "--from {}"},
    "evaluate run": {"model": f"{{}} {DATA}", **ASKED, "--ablate-heads": f"m {DATA} --ablate-heads {{}}"},
    "evaluate compare": {
        "full": f"{{}} m {DATA}",
        "others": f"m {{}} {DATA}",
        **{name: f"m {words}" for name, words in ASKED.items()},
        "--policy": f"m m {DATA} --policy {{}}",
        "--sweep": f"m m {DATA} --sweep {{}}",
        "--mapping": "m m --from-lm-eval --mapping {}",
    },
    "evaluate sweep": {
        "model": f"{{}} {DATA}",
        **QUESTIONS,
        "--scan": f"m {DATA} --scan {{}}",
        "--adapter": f"m {DATA} --adapter {{}}",
    },
    "evaluate depth": {
        "model": f"{{}} {DATA}",
        "--data": QUESTIONS["--data"],
        "--prompts": f"m {DATA} --prompts {{}}",
    },
    "evaluate frontier": {"comparisons": "m {}", "--policy": "m --policy {}"},
    "evaluate cliff": {"sweeps": "m {}"},
}
POOL = "--text t.jsonl --data d --domains math"
FILES = {
    "prune scan": {"model": "{} --text t.jsonl", "--text": "m --text {}"},
    "prune time": {"model": "{}"},
    "prune heads": {
        "model": "{} --text t.jsonl",
        "--text": "m --text {}",
        "--against": "m --text t.jsonl --against {}",
    },
    "prune concepts": {
        "model": "{} --text t.jsonl",
        "--text": "m --text {}",
        "--against": "m --text t.jsonl --against {}",
    },
    "prune write": {"model": "{} --prompts t.jsonl", "--prompts": "m --prompts {}"},
    "heal rank": {
        "model": f"{{}} {POOL}",
        "--text": "m --text {} --data d --domains math",
        "--data": "m --text t.jsonl --data {} --domains math",
        "--adapter": f"m {POOL} --adapter {{}}",
    },
    "evaluate report": {"results": "{}", "--sweep": "m --sweep {}"},
}
OUTPUTS = {"--out", "--plot", "--select-out"}
OUTPUT = {"evaluate prepare": "--data"}  # where it is not --out
MODELS = {"model", "full", "others", "--full", "--model", "--teacher", "adapter", "--adapter"}  # or --sweep, and so on
TEXTS = {"--text", "--held-out", "--domain-text", "--prompts", "--needle-text"}
IN_FOLDER = {"--data": "math.jsonl", "results": "comparison.json", "--sweep": "sweep.json"}
ONLY_FILES = {"--scan", "--costs", "--heads", "--times", "scan", "--ablate-heads", "--policy", "--mapping", "--against"}


def shapes(command, parameter):
    """Whether what a parameter names is a file, a folder, or either."""
    if parameter in ONLY_FILES or (command.startswith("evaluate") and parameter == "--prompts"):
        return ["file"]
    return ["file", "folder"] if parameter in TEXTS or parameter == "--from" else ["folder"]


def cases(table):
    return [
        pytest.param(command, parameter, words, shape, id=f"{command} {parameter} {shape}")
        for command, inputs in table.items()
        for parameter, words in inputs.items()
        for shape in shapes(command, parameter)
    ]


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """The working folder: a model `m`, questions `d`, a text `t.jsonl`; box/input.jsonl and box/input are at risk."""
    monkeypatch.chdir(tmp_path)
    for folder in ("m", "d", "box/input"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("config.json", "tokenizer.jsonl", "math.jsonl", "comparison.json", "sweep.json"):
            (tmp_path / folder / name).write_text("{}\n")
    for name in ("t.jsonl", "box/input.jsonl"):
        (tmp_path / name).write_text('{"text": "words"}\n')
    return tmp_path


def outside(table):
    """Each command that writes a folder or a file, with words that name what it reads."""
    return [
        pytest.param(command, next(iter(inputs.values())).format("m"), id=command) for command, inputs in table.items()
    ]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder, command, words, output, out, message="would replace"):
    with ours(folder / out):
        before = content(folder)
        program, name = command.split()
        result = run(program, name, *words.split(), output, out, "--overwrite")
        check_refused(result, 2 if "one file" in message else 1, message)
        assert output in result.stderr
        assert content(folder) == before


@contextmanager
def ours(out):
    """A folder passes for one that --overwrite may replace, while the block runs."""
    if not out.is_dir():
        yield
        return
    record = out / "run.json"
    record.write_text('{"format": "regrowth.run/2"}')
    yield
    record.unlink()


@pytest.mark.parametrize(("command", "parameter", "words", "shape"), cases(FOLDERS))
def test_a_folder_that_is_written_is_not_one_that_is_read_or_holds_what_is_read(
    inputs, command, parameter, words, shape
):
    read = "box/input.jsonl" if shape == "file" else "box/input"
    for out in ["box"] if shape == "file" else ["box", "box/input"]:
        refused(inputs, command, words.format(read), OUTPUT.get(command, "--out"), out)


@pytest.mark.parametrize(("command", "parameter", "words", "shape"), cases(FILES))
def test_a_file_that_is_written_is_not_one_that_is_read(inputs, command, parameter, words, shape):
    read = "box/input.jsonl" if shape == "file" else "box/input"
    out = read if shape == "file" else f"{read}/{IN_FOLDER.get(parameter, 'tokenizer.jsonl')}"
    refused(inputs, command, words.format(read), "--out", out)


@pytest.mark.parametrize("command", ["prune scan", "prune heads", "prune concepts", "heal rank"])
def test_two_outputs_are_two_files(inputs, command):
    words = FILES[command]["model"].format("m")
    refused(inputs, command, f"{words} --out a.svg", "--plot", "./a.svg", "--out and --plot name one file")


def test_the_documents_that_are_selected_do_not_replace_the_pool(inputs):
    words = FILES["heal rank"]["--text"].format("box/input.jsonl")
    refused(inputs, "heal rank", f"{words} --out r.json --select 10%", "--select-out", "box/input.jsonl")


def test_what_a_link_leads_to_and_the_link_itself_are_both_kept(inputs):
    (inputs / "links").mkdir()
    (inputs / "links" / "text.jsonl").symlink_to(inputs / "box" / "input.jsonl")
    words = FOLDERS["heal qlora"]["--text"].format("links/text.jsonl")
    for out in ("links", "box"):
        refused(inputs, "heal qlora", words, "--out", out)
    refused(inputs, "prune scan", words, "--out", "links/text.jsonl")


def test_a_files_own_folder_may_hold_what_is_written(inputs):
    """Beside what is read, and over an earlier result there: what stops these is that there is no model."""
    (inputs / "m" / "scan.json").write_text("{}")
    (inputs / "box" / "report.html").write_text("")
    for words in (
        "scan m --text box --out m/scan.json",
        "scan m --text box --out box/scan.json",
        "cut m --n 1 --out new",
    ):
        assert "would replace" not in run("prune", *words.split(), "--overwrite").stderr
    check_refused(run("evaluate", "report", "box", "--overwrite"), 1, "holds no comparison.json")


def test_the_text_that_a_scan_was_made_on_is_read_by_the_cut(inputs):
    scan = hand_made_scan()
    read = {"source": "box/input.jsonl", "field": "text", "sha256": ""}
    for text in (read, [read]):
        scan.model_copy(update={"provenance": {"text": text}}).write("scan.json", overwrite=True)
        refused(inputs, "prune cut", "m --n 1 --scan scan.json", "--out", "box")


@pytest.mark.parametrize(("command", "words"), outside(FOLDERS))
def test_a_folder_that_regrowth_did_not_write_is_not_replaced(inputs, command, words):
    """A stranger's folder, a git repository of results, and a folder that holds another result."""
    for folder in ("theirs", "repository/.git", "holder/model"):
        (inputs / folder).mkdir(parents=True)
    (inputs / "theirs" / "thesis.txt").write_text("years of work")
    (inputs / "theirs" / "run.json").write_text('{"speed": 3}')
    (inputs / "repository" / ".git" / "config").write_text("")
    for folder in ("theirs", "repository", "holder", "holder/model"):
        hand_made_scan().write(inputs / folder / "scan.json")  # its own file, not the record of a folder
    for folder in ("repository", "holder", "holder/model"):
        (inputs / folder / "prune_plan.json").write_text('{\n  "format": "regrowth.plan/1"\n}')
    before, option = content(inputs), OUTPUT.get(command, "--out")
    program, name = command.split()
    for out, lost in (("theirs", "run.json"), ("repository", ".git"), ("holder", "model/prune_plan.json")):
        result = run(program, name, *words.split(), option, out, "--overwrite")
        check_refused(result, 1, f"replaces only what Regrowth wrote, and {option} {out} holds {lost}; give another")
        assert content(inputs) == before


@pytest.mark.parametrize(("command", "words"), outside({**FOLDERS, **FILES}))
def test_a_place_that_cannot_be_written_is_refused_before_any_work(inputs, command, words):
    option = OUTPUT.get(command, "--out")
    program, name = command.split()
    (inputs / "plain").write_text("")
    for out in ("/proc/none/out.json", "plain/out.json"):
        result = run(program, name, *words.split(), option, out)
        check_refused(result, 1, f"{option} {out} cannot be written (")
        assert "give a place that can be written" in result.stderr


@pytest.fixture(scope="module")
def healed(tiny_llama, tmp_path_factory):
    """A folder of a full model, its cut, a text and an adapter that was trained and measured on it, each in its box."""
    folder = tmp_path_factory.mktemp("healed")
    full = shutil.copytree(tiny_llama, folder / "models" / "full")
    pruned = cut(plan_cut(full, n=2, start=4), folder / "pruned", show_progress=False)
    (folder / "texts").mkdir()
    text = write_jsonl(folder / "texts" / "text.jsonl", ({"text": one} for one in sentences(400)))
    heal_small(pruned, TextSource(str(text), held_out=str(text), held_out_tokens=128), folder / "adapter")
    return folder


@pytest.mark.parametrize(
    ("command", "words", "outs"),
    [
        ("heal finalists", "pruned --text texts", ["models", "models/full"]),
        ("heal patch", "pruned --text texts", ["models", "models/full"]),
        ("heal patch", "pruned --text texts --pass-over", ["models", "models/full"]),
        ("heal merge", "adapter", ["pruned", "texts"]),
        ("heal merge", "adapter --base original", ["pruned", "texts"]),
        ("heal merge", "adapter --adapter-only", ["pruned", "models", "texts"]),
    ],
)
def test_what_a_plan_or_a_record_names_is_read_too(healed, monkeypatch, command, words, outs):
    monkeypatch.chdir(healed)
    for out in outs:
        refused(healed, command, words, "--out", out)


def test_every_input_of_every_command_that_writes_is_tried():
    """By the type of each parameter, and for text by its name: a new option has to be entered above, and refused."""
    known = {**FOLDERS, **FILES}
    for program in ("prune", "heal", "evaluate"):
        for command in import_module(f"{PROGRAMS[program]}.cli").app.registered_commands:
            name = f"{program} {command.name or command.callback.__name__}"
            parameters = inspect.signature(command.callback, eval_str=True).parameters
            flags = {flag_of(parameter): parameter.annotation for parameter in parameters.values()}
            if OUTPUT.get(name, "--out") not in flags:
                continue
            paths = {flag for flag, kind in flags.items() if "Path" in str(kind.__origin__) or flag in MODELS | TEXTS}
            assert paths - OUTPUTS - {OUTPUT.get(name)} == set(known.pop(name)), name
    assert not known


def flag_of(parameter):
    info = parameter.annotation.__metadata__[0]
    if type(info).__name__ == "ArgumentInfo":
        return parameter.name
    declared = (info.default, *(info.param_decls or ()))  # of an annotation, the first of them stands for a default
    long = [word for word in declared if isinstance(word, str) and word.startswith("--")]
    return long[0] if long else f"--{parameter.name.replace('_', '-')}"
