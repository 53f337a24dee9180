"""How a model is asked: tasks and their prompts, lm-eval's classes, backends, shared readings, and answers kept."""
