"""The console commands, each with the package that it runs."""

PROGRAMS = {"prune": "prune", "heal": "heal", "evaluate": "eval", "recipe": "recipes"}
