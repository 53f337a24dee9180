"""How a model is asked: tasks and their prompts, lm-eval's classes, backends, shared readings, and answers kept."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars; tqdm reads this when it is imported. Ours say it in one
