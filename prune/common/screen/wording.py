"""What the help says of options that several commands have: each in the same words everywhere."""

from __future__ import annotations

MODEL = "Model folder or hub id"
REVISION = "Branch, tag or commit of a hub id."
OVERWRITE = "Replace output that is there already."
RESUME = "Go on with an interrupted run into --out; begin if there is none."
DEVICE = "auto, cpu, cuda, cuda:1, mps."
DEVICE_MAP = "auto: the layers spread over all GPUs, for a model that one does not hold."
IN_4BIT = "Load the weights in NF4, for a model that does not fit as stored."
SOURCE = ".txt, .jsonl, .jsonl.gz, .parquet, a folder of these, or hub:repo[:config[:split]]"
FIELD = "Field of each row that holds the text."
