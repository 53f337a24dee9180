"""FOLDER OUT: every scalar of a folder of logs as tensorboard reads it, `{name: [[step, value], ...]}`."""

import json
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

folder, out = sys.argv[1:]
events = EventAccumulator(folder)
events.Reload()
found = {name: [[event.step, event.value] for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
Path(out).write_text(json.dumps(found))
