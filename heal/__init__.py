"""How to train back what a cut took: adapters, training, merging."""

from prune.common.lazy import lazily

_PUBLIC = {
    "BudgetQuery": "heal.settings",
    "DistillSettings": "heal.settings",
    "HealResult": "heal.result",
    "Measuring": "heal.settings",
    "PatchRun": "heal.settings",
    "PatchSettings": "heal.settings",
    "RankRun": "heal.ranking.settings",
    "RankSettings": "heal.ranking.settings",
    "Selection": "heal.ranking.settings",
    "Settings": "heal.settings",
    "TextSource": "heal.text.sources",
    "TrainingRun": "heal.settings",
    "adapter_only": "heal.merging.adapter_only",
    "choose_healed": "heal.choosing.finalists",
    "distill": "heal.training.distill",
    "held_out_loss": "heal.models.held_out",
    "merge": "heal.merging.merge",
    "patch": "heal.patching.patch",
    "plan_budget": "heal.budget.plan",
    "qlora": "heal.training.qlora",
    "rank": "heal.ranking.rank",
}

__all__ = sorted(_PUBLIC)
__getattr__ = lazily(__name__, _PUBLIC)
