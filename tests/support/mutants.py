"""Mutants of a checkpoint's files, drawn from a seed."""

import json
import random
import struct
from pathlib import Path

NUMBERS = (0, 1, 2, 7, 8, 9, 255, 4096, 10**8, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, -1, -8, 1.5, 1e308)
WORDS = (
    "", ".", "..", "/", "../x.safetensors", "/etc/passwd", "one.safetensors", "F32", "BF16", "F4", "I64", "F33", "a\0b",
    "\ud800", "é", "model.layers.0.w", "model.layers.-1.w", "model.layers.99999999999.w", "__metadata__",
)  # fmt: skip


def mutate_value(value, draw):
    """A JSON value changed in one place, or replaced."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        changed = dict(value)
        what = draw.randrange(5)
        if what == 0:
            del changed[key]
        elif what == 1:
            changed[draw.choice(WORDS)] = changed.pop(key)
        elif what == 2:
            changed[draw.choice(WORDS)] = changed[key]
        else:
            changed[key] = mutate_value(value[key], draw)
        return changed
    if isinstance(value, list) and value and draw.random() < 0.85:
        changed = list(value)
        place = draw.randrange(len(changed))
        what = draw.randrange(4)
        if what == 0:
            del changed[place]
        elif what == 1:
            changed.insert(place, draw.choice(NUMBERS))
        else:
            changed[place] = mutate_value(changed[place], draw)
        return changed
    if isinstance(value, int) and draw.random() < 0.4:
        return value + draw.choice((-8, -4, -1, 1, 4, 8))
    return draw.choice((draw.choice(NUMBERS), draw.choice(WORDS), None, True, [], {}, [1, [2]], {"a": {}}))


def mutate_bytes(content: bytes, draw) -> bytes:
    """Some bytes overwritten, removed, put in, or said twice."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 5)):
        place = draw.randrange(len(changed) + 1)
        what = draw.randrange(4)
        if what == 0:
            changed[place : place + 1] = draw.randbytes(1)
        elif what == 1:
            del changed[place : place + draw.randint(1, 40)]
        elif what == 2:
            changed[place:place] = draw.choice((b'"', b"{", b"[", b"}", b",", b"\\u0000", b"9" * 40, b"[" * 3000))
        else:
            changed[place:place] = changed[place : place + draw.randint(1, 60)]
    return bytes(changed)


def framed(text: bytes, data: bytes, draw) -> bytes:
    """A header's text as a file, its length at times a lie."""
    length = len(text)
    if draw.random() < 0.15:
        length = draw.choice((0, 1, length - 1, length + 1, 1 << 20, 10**8, 10**8 + 1, 1 << 40, 2**63, 2**64 - 1))
    return struct.pack("<Q", length % 2**64) + text + data


def fuzz(folder: str, seed: int, count: int) -> None:
    """Mutate a checkpoint `count` times, and read and plan it each time; prints how the attempts ended."""
    import logging

    from prune.common.errors import CheckpointError, UsageError
    from prune.families.subject import open_subject

    logging.disable()
    place, draw = Path(folder), random.Random(seed)
    shards = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
    names = ["config.json", "model.safetensors.index.json", *shards]
    sound = {name: (place / name).read_bytes() for name in names}
    ended, longest = {"read": 0, "refused": 0}, 0
    for _ in range(count):
        name = draw.choice([*names[:2], *names])
        content = sound[name]
        if name.endswith(".json"):
            text, data = content, None
        else:
            cut = 8 + struct.unpack("<Q", content[:8])[0]
            text, data = content[8:cut], content[cut:]
        if draw.random() < 0.6:
            document = mutate_value(json.loads(text), draw)
            text = json.dumps(document).encode("utf-8")
        else:
            text = mutate_bytes(text, draw)
        changed = text if data is None else framed(text, data, draw)
        (place / name).write_bytes(changed)
        try:
            subject = open_subject(place)
            for layout in subject.layouts(range(1, subject.layers)):
                assert layout[1].size < 10 * len(b"".join(sound.values()))
            ended["read"] += 1
        except (CheckpointError, UsageError) as error:
            longest = max(longest, len(str(error)))
            ended["refused"] += 1
        finally:
            (place / name).write_bytes(content)
    print(json.dumps({**ended, "longest": longest}))
