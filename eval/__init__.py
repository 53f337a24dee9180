"""Domains, questions, scores, statistics and reports.

`questions` are asked of a model by `asking`, which reads written answers with `answers`. `runs` keeps what one model
answered, `billing` makes numbers with intervals of it, and `reports` shows them. `sweeps` asks many cuts in one walk,
and `depth` finds out by removal what layers are for.
"""

from prune.common.lazy import lazily

_PUBLIC = {  # no room may have one of these names: once imported, it would stand where the function should
    "ComparisonSettings": "eval.settings",
    "DepthSettings": "eval.depth.settings",
    "GainsSettings": "eval.gains.settings",
    "RunSettings": "eval.settings",
    "SweepSettings": "eval.sweeps.settings",
    "compare": "eval.comparison",
    "compare_lm_eval": "eval.lm_eval_comparison",
    "find_cliffs": "eval.limits.cliff",
    "judge": "eval.billing.judging.verdict",
    "list_domains": "eval.questions.listing",
    "make_frontier": "eval.limits.frontier",
    "measure_depth": "eval.depth.run",
    "prepare": "eval.questions.preparation",
    "read_policy": "eval.billing.judging.policy",
    "report": "eval.reporting",
    "run": "eval.runs.run",
    "sweep": "eval.sweeps.run",
}

__all__ = sorted(_PUBLIC)
__getattr__ = lazily(__name__, _PUBLIC)
