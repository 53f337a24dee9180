"""Queries that need the same steps with other numbers, and controls with the same words and none of the steps.

The procedures are those of arXiv 2411.12580: arithmetic in two steps, the slope between two points, and an equation to
be solved for x. The answer is worked out, as it is the steps that should transfer, and the numbers differ.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from heal.ranking.rows import Query

PROCEDURES = "procedures"  # the domain of these queries
CONTROLS = "controls"  # and of their controls

Made = tuple[str, str, str]  # prompt, answer and key
Maker = Callable[[random.Random], Made]


def procedure_queries(each: int, *, controls: int, seed: int) -> list[Query]:
    """Queries of every procedure, and controls of each, in an order that does not depend on how many are asked for.

    `procedure` names the procedure, for a control the one whose words it has. No two queries of a procedure, nor two
    controls of it, have the same prompt.

    Args:
        each: queries of a procedure, at most 100.
        controls: controls of a procedure, at most 100.
        seed: of the numbers.

    Raises:
        ValueError: more than 100, or fewer than none.
    """
    if not (0 <= each <= 100 and 0 <= controls <= 100):
        raise ValueError(f"{each} queries and {controls} controls of a procedure; 0 to 100 can be made")
    made = []
    for procedure, (maker, control) in _MAKERS.items():
        for domain, how, count in ((PROCEDURES, maker, each), (CONTROLS, control, controls)):
            draw = random.Random(f"{seed} {domain} {procedure}")
            rows: dict[str, Made] = {}
            while len(rows) < count:
                row = how(draw)
                rows.setdefault(row[0], row)
            made += [
                Query(f"{domain}-{procedure}-{number}", domain, prompt, answer, key, procedure)
                for number, (prompt, answer, key) in enumerate(rows.values())
            ]
    return made


def _arithmetic(draw: random.Random) -> Made:
    a, b, c = draw.randint(2, 40), draw.randint(2, 40), draw.randint(2, 12)
    answer = f"First, {a} + {b} = {a + b}. Then, {a + b} * {c} = {(a + b) * c}. The answer is {(a + b) * c}."
    return f"Calculate the answer: ({a} + {b}) * {c} = ? Think step by step.\n", answer, str((a + b) * c)


def _arithmetic_control(draw: random.Random) -> Made:
    a, b, c = draw.randint(2, 40), draw.randint(2, 40), draw.randint(2, 12)
    words = f"({a} + {b}) * {c}"
    return f"Copy the expression: {words} = ? Do not work it out.\n", f"The expression is {words}.", ""


def _slope(draw: random.Random) -> Made:
    x, y, run, slope = (draw.randint(*span) for span in ((1, 12), (1, 12), (2, 9), (2, 9)))
    rise = slope * run
    answer = (
        f"The slope is (y2 - y1) / (x2 - x1) = ({y + rise} - {y}) / ({x + run} - {x}) = {rise} / {run} = {slope}. "
        f"The slope is {slope}."
    )
    points = f"({x}, {y}) and ({x + run}, {y + rise})"
    return f"What is the slope of the line through the points {points}? Think step by step.\n", answer, str(slope)


def _slope_control(draw: random.Random) -> Made:
    x, y, run, rise = (draw.randint(*span) for span in ((1, 12), (1, 12), (2, 9), (2, 80)))
    points = f"({x}, {y}) and ({x + run}, {y + rise})"
    prompt = f"Which points does the line through the points {points} go through? Do not work it out.\n"
    return prompt, f"The points are {points}.", ""


def _equation(draw: random.Random) -> Made:
    a, x, b = draw.randint(2, 9), draw.randint(2, 20), draw.randint(1, 40)
    answer = (
        f"Subtract {b} from both sides: {a}x = {a * x + b} - {b} = {a * x}. "
        f"Divide both sides by {a}: x = {a * x} / {a} = {x}. The answer is x = {x}."
    )
    return f"Solve for x: {a}x + {b} = {a * x + b}. Think step by step.\n", answer, str(x)


def _equation_control(draw: random.Random) -> Made:
    a, b, c = draw.randint(2, 9), draw.randint(1, 40), draw.randint(5, 220)
    words = f"{a}x + {b} = {c}"
    return f"Copy the equation in x: {words}. Do not work it out.\n", f"The equation is {words}.", ""


_MAKERS: dict[str, tuple[Maker, Maker]] = {
    "two-step arithmetic": (_arithmetic, _arithmetic_control),
    "slope": (_slope, _slope_control),
    "solve for x": (_equation, _equation_control),
}
