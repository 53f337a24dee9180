"""Runs `heal` in children of one process that has imported everything, and kills them where it is told to.

    python killed_heals.py '[{"args": ["qlora", ...], "at": 5, "signal": 9, "where": "step"}, ...]'

Prints, one JSON object a line, the exit code of each child (minus the signal's number if one ended it) and its stderr.
`where` is "step" (in the middle of the `at`-th step that the child does, 1-based) or "saving" (when the checkpoint of
step `at` is half written).
"""

import json
import os
import sys
import tempfile

import bitsandbytes  # noqa: F401
import peft  # noqa: F401
import pytest
import torch  # noqa: F401
from healing_steps import in_step

import heal.text.streams
import heal.training.state

heal.text.streams.BUFFER = 8  # so that a small text has a place in it that matters


def arm(at, number, where):
    write = heal.training.state.write_state

    def halved(folder, *parts):
        if folder.name == f"checkpoint-{at}":
            os.kill(os.getpid(), number)
        write(folder, *parts)

    if where == "step":
        in_step(at, lambda: os.kill(os.getpid(), number), pytest.MonkeyPatch())
    else:
        heal.training.state.write_state = halved


for job in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            os.dup2(errors.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if "at" in job:
                arm(job["at"], job["signal"], job.get("where", "step"))
            from heal.cli import app

            try:
                app(job["args"], prog_name="heal")
            except SystemExit as end:
                sys.stderr.flush()
                os._exit(int(end.code or 0))
            os._exit(99)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        print(json.dumps({"code": code, "stderr": errors.read().decode(errors="replace")}), flush=True)
