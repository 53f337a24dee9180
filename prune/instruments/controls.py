"""What must not fall when retrieval heads go: facts that a model knows, and small sums. No context holds the answer.

Each is a question, the opening of its answer, and the answer's next words. A model is right where these words are what
it would write next: one pass over the prompt tells that, and how likely the words are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Control:
    """A question that is answered from the weights alone.

    Attributes:
        question: what is asked.
        opening: how the answer begins.
        answer: the words that follow, after a space.
    """

    question: str
    opening: str
    answer: str


_CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Germany": "Berlin", "Spain": "Madrid", "Egypt": "Cairo",
    "Russia": "Moscow", "England": "London", "China": "Beijing", "Greece": "Athens", "Austria": "Vienna",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Canada": "Ottawa", "Cuba": "Havana", "Iran": "Tehran",
}  # fmt: skip
_OTHERS = (
    ("Which planet is known as the red planet?", "The red planet is", "Mars"),
    ("What is the largest planet of the solar system?", "The largest planet of the solar system is", "Jupiter"),
    ("What is the largest ocean on Earth?", "The largest ocean on Earth is the", "Pacific"),
    ("What is the highest mountain on Earth?", "The highest mountain on Earth is Mount", "Everest"),
    ("Who wrote Romeo and Juliet?", "Romeo and Juliet was written by William", "Shakespeare"),
    ("Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo", "da Vinci"),
    ("Who developed the theory of relativity?", "The theory of relativity was developed by Albert", "Einstein"),
    ("Who invented the telephone?", "The telephone was invented by Alexander Graham", "Bell"),
    ("What is the opposite of hot?", "The opposite of hot is", "cold"),
    ("What is the opposite of up?", "The opposite of up is", "down"),
    ("What is the largest animal on Earth?", "The largest animal on Earth is the blue", "whale"),
    ("Which language is spoken in Brazil?", "The language spoken in Brazil is", "Portuguese"),
    ("Which language is spoken in Mexico?", "The language spoken in Mexico is", "Spanish"),
    ("Which organ pumps blood through the body?", "The organ that pumps blood through the body is the", "heart"),
    ("Where do the pyramids of Giza stand?", "The pyramids of Giza stand in", "Egypt"),
    ("What is the currency of Japan?", "The currency of Japan is the", "yen"),
    ("What is the first month of the year?", "The first month of the year is", "January"),
    ("What is the last month of the year?", "The last month of the year is", "December"),
    ("What day comes after Monday?", "The day after Monday is", "Tuesday"),
    ("What do bees make?", "Bees make", "honey"),
    ("What is frozen water called?", "Frozen water is called", "ice"),
    ("What color is grass?", "The color of grass is", "green"),
    ("Which force pulls things to the ground?", "The force that pulls things to the ground is", "gravity"),
    ("Which gas do people breathe in to live?", "The gas that people breathe in to live is", "oxygen"),
)

FACTS = (
    *(
        Control(f"What is the capital of {country}?", f"The capital of {country} is", city)
        for country, city in _CAPITALS.items()
    ),
    *(Control(*fact) for fact in _OTHERS),
)


def _sums() -> tuple[Control, ...]:
    """40 sums of two small numbers: additions, subtractions and products in turn."""
    pairs = [(a, b) for a in range(2, 10) for b in range(2, 10) if a > b and (a + b) % 2]
    asked = []
    for a, b in pairs[:14]:
        asked += [(f"{a} + {b}", a + b), (f"{a + b} - {b}", a), (f"{a} * {b}", a * b)]
    return tuple(Control(f"What is {words}?", f"{words} =", str(value)) for words, value in asked[:40])


SUMS = _sums()
