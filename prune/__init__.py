"""Where a model keeps its layers, how alike layer inputs are, which block to drop, and the cut itself."""

from prune.common.lazy import lazily

_PUBLIC = {
    "CheckSettings": "prune.choosing.settings",
    "Concepts": "prune.instruments.concepts.result",
    "ConceptsSettings": "prune.instruments.concepts.settings",
    "CutPlan": "prune.cutting.plan",
    "CutSettings": "prune.choosing.settings",
    "FitSettings": "prune.choosing.settings",
    "Heads": "prune.choosing.heads",
    "HeadsSettings": "prune.instruments.settings",
    "Scan": "prune.scanning.result",
    "ScanSettings": "prune.scanning.settings",
    "TimeSettings": "prune.choosing.settings",
    "Times": "prune.choosing.times",
    "concepts": "prune.instruments.concepts.concepts",
    "WriteSettings": "prune.writing.settings",
    "Written": "prune.writing.result",
    "cut": "prune.cutting.cut",
    "heads": "prune.instruments.heads",
    "inspect_cut": "prune.cutting.verify",
    "plan_cut": "prune.cutting.planning",
    "scan": "prune.scanning.scan",
    "time_layers": "prune.choosing.timing",
    "verify_cut": "prune.cutting.verify",
    "write": "prune.writing.write",
}

__all__ = sorted(_PUBLIC)
__getattr__ = lazily(__name__, _PUBLIC)
