"""docs/formats.md, made of the artefacts' own classes. `make formats` writes it.

Each file of ours is a section: the fields of its class, then those of the parts that stand in it.
"""

import inspect
from pathlib import Path
from typing import get_args, get_origin

from pydantic import BaseModel

from eval.billing.artefacts import Comparison, Run
from eval.billing.cliff import Cliffs
from eval.billing.frontier import Frontier
from eval.billing.sweep import SweepRecord
from eval.depth.document import DepthRecord
from eval.questions.examples import ExampleLine
from eval.questions.listing import Domains
from eval.questions.preparation import Manifest
from eval.questions.schema import QuestionLine
from heal.budget.document import Budget
from heal.choosing.record import Finalists
from heal.ranking.document import Ranking
from heal.result import HealRecord
from prune.choosing.costs import Costs
from prune.choosing.heads import Heads
from prune.choosing.times import Times
from prune.cutting.plan import CutPlan
from prune.cutting.verify import Verification
from prune.instruments.concepts.result import Concepts
from prune.scanning.result import Scan
from prune.writing.result import Written
from recipes.record import RecipeRecord

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"

HEAD = """# What the commands write

This page is made of the code: `make formats` writes it.

Every JSON file names its format and version in `format`. A file of an older version is refused, with what to run
again. Layers are numbered from 0. A block `(start l, n)` drops layers `l .. l+n-1`. `x[l]` is the input of layer l,
and `x[L]` the output of the last layer before the final norm. `provenance` says where numbers came from: `model`
(name, hub `commit` or the SHA-256 of config.json and of each shard's header), `text` (source, field, SHA-256),
`seed`, `versions`, `command`. An interval is `{estimate, low, high}` at 95 %. Shares are of 1. A difference is
the other model's minus the full model's, paired by question and clustered where questions share a passage;
[statistics.md](statistics.md) has every formula. NaN and infinity never occur: a score that could not be computed is
an error."""

# File, its class, and what stands beside it or needs more words than a field has.
SECTIONS = (
    ("scan.json", Scan, ""),
    ("costs.json", Costs, ""),
    ("time.json", Times, ""),
    (
        "heads.json",
        Heads,
        "[retrieval heads](instruments/heads.md) says how scores, intervals and verdicts come about.",
    ),
    (
        "concepts.json",
        Concepts,
        "[latent concepts](instruments/concepts.md) says how clusters, labels, chance and verdicts come about.",
    ),
    ("prune_plan.json", CutPlan, ""),
    ("`prune verify --json`", Verification, ""),
    (
        "`prune write --json`",
        Written,
        """The text itself is JSON lines, a row for each answer: `text` (prompt and answer as the model saw them,
without the BOS and EOS that a reader adds), `prompt`, `answer` (without special tokens), `tokens` (of the answer),
`finished` (whether the model ended it), `prompt_tokens`, `batch`, `messages` (in a chat template: question and answer
as a chat), `source` (the file of the prompt), `kind` and `model`. responses.jsonl of `heal distill` has the same
fields, but for the last three. A run that is not done leaves `.NAME.unfinished` and `.NAME.unfinished.rows` beside its
`--out`.""",
    ),
    (
        "heal.json",
        HealRecord,
        """A run that is not done leaves `.NAME.unfinished/` beside its `--out`. `run.json` there
(`regrowth.unfinished/3`) has `method`, `model`, `settings`, `steps`, `text`, `device`, of `distill` `teacher` and
`prompts`, `facts` of the method, and the hash of held-out.json, the measured rows. `checkpoint-STEP/` has the
adapter as peft writes it, `optimizer.pt` (under FSDP `optimizer.bin`), `scheduler.pt`, `generators-RANK.pt`,
`curve.json`, `rows-RANK.json.gz` (the place in the text, the shuffled documents, the row being packed),
`best.safetensors` with `--patience`, and `sums.json` with the SHA-256 of every other file.""",
    ),
    (
        "rank.json",
        Ranking,
        """Beside it, with --select-out: one document a line, the best first, with `text`, `source`, `topic`, `kind` and
`score` by the method that selected. A run that is not done leaves `.NAME.unfinished` (sketches of queries, scores of
documents) and `.NAME.warm-up/` (the adapter, and the text it is trained on) beside its `--out`.""",
    ),
    ("finalists.json", Finalists, "It stands in the folder of the pruned model that `heal finalists` wrote."),
    ("`heal budget --json`", Budget, ""),
    (
        "comparison.json",
        Comparison,
        """Beside it: `results.json` in lm-eval's shape (its `make_table` reads it), `samples_<model>_<task>.jsonl` with
one question a line (verdicts, and the question itself under `doc`), `comparison.md`, `report.html` (see
[report.md](report.md)), and the figures `comparison.svg` and, with fast and slow thinking, `thinking.svg`.""",
    ),
    (
        "run.json",
        Run,
        "A folder with run.json, results.json and its samples can stand for the model in `evaluate compare`.",
    ),
    (
        "sweep.json",
        SweepRecord,
        """A walk that all variants share cannot generate. So questions of the `generation` protocol have no `accuracy`:
their `answer_nll_bits` is that of the key's answer, and `answer_greedy` the share of questions where each token
of the key's answer is the model's first choice after the ones before it.

Beside it: `costs.json`, whose costs are the rise of answer NLL over the full model in bits per byte of the right
answers (the mean over a domain's protocols); `samples_<task>.jsonl`, one question a line: `id`, `subject`, `source`,
`prompt_hash`, and `correct`, `correct_raw`, `answer_greedy`, `answer_nll_bits`, `response` as lists over `variants`
in their order (null where the protocol has none); the figures `curves.svg` and `map.svg`; `report.html`.""",
    ),
    (
        "frontier.json",
        Frontier,
        "Beside it: `frontier.md` and `frontier.svg`. [frontier.md](frontier.md) explains them.",
    ),
    ("cliff.json", Cliffs, "Beside it: `cliff.md` and `cliff.svg`. [frontier.md](frontier.md) explains them."),
    (
        "depth.json",
        DepthRecord,
        """[what blocks are for](instruments/depth.md) says how measures, contrasts and verdicts come about.

Beside it: `depth.md`; `depth_<task>.jsonl`, one question a line: `id`, `subject`, `source`, `cluster`,
`rationale_tokens` (0: none is used), `control_of` (the question whose rationale stands beside this one), and each
measure as a list over `variants` in their order (null where it is not of the question; `informed` is of the
question's own rationale); with --generate `written_<variant>_<task>-<mode>.jsonl`, the samples; figures as .svg;
`report.html`.""",
    ),
    ("manifest.json", Manifest, ""),
    ("`evaluate domains --json`", Domains, ""),
    ("recipe.json", RecipeRecord, ""),
)

EXAMPLES = """`examples/<set>.jsonl` holds the worked examples that `--few-shot` shows by letters, as
their publishers give them:"""

QUESTIONS = """## Question files, `<domain>.jsonl`

One JSON object a line. A file of your own with these fields, put into the folder, is a domain by its name. What a
`<domain>.yaml` beside it declares (`licence`, `source`, `subject`, `description`) its lines may leave out; see
[domains.md](domains.md)."""


def page():
    """The whole page."""
    sections = ["\n".join(section(*given)) for given in SECTIONS]
    questions = "\n".join([QUESTIONS, "", *table(QuestionLine), "", EXAMPLES, "", *table(ExampleLine)])
    return "\n\n".join([HEAD, *sections, questions]) + "\n"


def section(name, artefact, words):
    """Lines: the heading, what the file is, its fields, those of its parts, and what else is to be said."""
    lines = [f"## {name}, `{artefact.kind()}`", "", summary(artefact), "", *table(artefact)]
    for part, where in list(parts(artefact).items())[1:]:
        lines += ["", f"`{where}`: {summary(part)}", "", *table(part)]
    return [*lines, "", words] if words else lines


def table(model):
    """A Markdown table of a model's fields, in their order."""
    described = {**model.model_fields, **model.model_computed_fields}
    described.pop("format", None)
    lacking = [f"{model.__name__}.{name}" for name, field in described.items() if not field.description]
    assert not lacking, f"no description: {', '.join(lacking)}"
    rows = [(name, " ".join(field.description.split()).replace("|", "\\|")) for name, field in described.items()]
    return ["| field | what |", "|---|---|", *(f"| `{name}` | {words} |" for name, words in rows)]


def parts(model, path="", known=None):
    """The models that stand in a model's fields -> where each stands first, such as `rows[].versus`."""
    known = {model: path} if known is None else known
    for name, field in model.model_fields.items():
        for part, many in models_in(field.annotation):
            if part not in known:
                known[part] = f"{path}{name}{'[]' if many else ''}"
                parts(part, f"{known[part]}.", known)
    return known


def models_in(annotation, many=False):
    """Models in an annotation, each with whether it stands in a list or a mapping."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [(annotation, many)]
    many = many or get_origin(annotation) in (tuple, list, dict)
    return [model for inner in get_args(annotation) for model in models_in(inner, many)]


def summary(model):
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
