"""The order scan, cut, heal, compare, as YAML and one small runner."""

from prune.common.lazy import lazily

_PUBLIC = {
    "load_recipe": "recipes.schema",
    "run_recipe": "recipes.runner",
}

__all__ = sorted(_PUBLIC)
__getattr__ = lazily(__name__, _PUBLIC)
