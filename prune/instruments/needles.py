"""The needles: invented facts, each with its question. None can be known, and none stands in any other text.

Each answer has five words of content or more, so that the share of it that a model gives back is a graded measure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Needle:
    """One invented fact.

    Attributes:
        text: the sentence that is hidden in the haystack.
        question: what is asked about it.
        answer: the part of `text` that answers, word for word.
    """

    text: str
    question: str
    answer: str


def _needle(before: str, answer: str, after: str, question: str) -> Needle:
    return Needle(f"{before} {answer}{after}", question, answer)


NEEDLES = (
    _needle(
        "The key to the old lighthouse at Carrow Point is kept",
        "under a blue flowerpot beside the bakery",
        ".",
        "Where is the key to the old lighthouse at Carrow Point kept?",
    ),
    _needle(
        "Every spring the weavers of Tolm Valley dye their wool with",
        "walnut shells, black cherries and river mint",
        ".",
        "What do the weavers of Tolm Valley dye their wool with?",
    ),
    _needle(
        "The first prize of the Hesper cooking contest was",
        "a copper kettle filled with dried cherries",
        ".",
        "What was the first prize of the Hesper cooking contest?",
    ),
    _needle(
        "Captain Ilse Varden paid for her third ship with",
        "nine barrels of smoked salt and a parrot",
        ".",
        "What did Captain Ilse Varden pay for her third ship with?",
    ),
    _needle(
        "The clockmaker Osric Penhale hid his last drawing",
        "inside a hollow violin above the stable",
        ".",
        "Where did the clockmaker Osric Penhale hide his last drawing?",
    ),
    _needle(
        "Visitors to the Marrowgate library must leave",
        "a green feather and a handwritten poem",
        " at the door.",
        "What must visitors to the Marrowgate library leave at the door?",
    ),
    _needle(
        "The secret of the Dunmere fish soup is",
        "roasted fennel with a spoonful of plum vinegar",
        ".",
        "What is the secret of the Dunmere fish soup?",
    ),
    _needle(
        "The goats of Brackwater farm sleep",
        "in a painted railway carriage behind the orchard",
        ".",
        "Where do the goats of Brackwater farm sleep?",
    ),
    _needle(
        "On her birthday Queen Adelmar always wore",
        "a grey cloak lined with fox fur and silver bells",
        ".",
        "What did Queen Adelmar always wear on her birthday?",
    ),
    _needle(
        "The bridge at Sorrel Gap was repaired with",
        "oak planks from a sunken grain ship",
        ".",
        "What was the bridge at Sorrel Gap repaired with?",
    ),
    _needle(
        "Doctor Maren Quill cured the miners' cough with",
        "boiled pine needles and goat honey",
        ".",
        "What did Doctor Maren Quill cure the miners' cough with?",
    ),
    _needle(
        "On Thursdays the choir of Saint Odran practises",
        "in the cellar of an abandoned candle factory",
        ".",
        "Where does the choir of Saint Odran practise on Thursdays?",
    ),
    _needle(
        "The winner of the Pellan bicycle race receives",
        "a live goose and a barrel of pear cider",
        ".",
        "What does the winner of the Pellan bicycle race receive?",
    ),
    _needle(
        "The inventor Tobias Wrenfield lit his first lamp with",
        "crushed beetle shells, lemon juice and rust",
        ".",
        "What did the inventor Tobias Wrenfield light his first lamp with?",
    ),
    _needle(
        "The missing page of the Corvane diary was found",
        "between two slices of mouldy rye bread",
        ".",
        "Where was the missing page of the Corvane diary found?",
    ),
    _needle(
        "To open the gate of Halver Hall one must",
        "whistle twice and knock with a wooden spoon",
        ".",
        "What must one do to open the gate of Halver Hall?",
    ),
    _needle(
        "The painter Lidia Sorenko mixed her famous red from",
        "ground brick, rose petals and stale wine",
        ".",
        "What did the painter Lidia Sorenko mix her famous red from?",
    ),
    _needle(
        "The mayor of Ambleford travels to work",
        "in a yellow rowing boat with a striped sail",
        ".",
        "How does the mayor of Ambleford travel to work?",
    ),
    _needle(
        "The night train to Velmora stops only for passengers who carry",
        "a burning lantern and a brown leather suitcase",
        ".",
        "What must passengers carry so that the night train to Velmora stops?",
    ),
    _needle(
        "The farmer Gideon Marsh feeds his prize pig with",
        "stale gingerbread, pear skins and warm beer",
        ".",
        "What does the farmer Gideon Marsh feed his prize pig with?",
    ),
    _needle(
        "The treaty of Lowen Fell was written",
        "on the back of a tavern menu in beetroot ink",
        ".",
        "On what was the treaty of Lowen Fell written?",
    ),
    _needle(
        "The astronomer Petra Holloway named her new comet after",
        "a stray cat from the harbour market",
        ".",
        "What did the astronomer Petra Holloway name her new comet after?",
    ),
    _needle(
        "The children of Tarn Ridge measure the snow with",
        "a broken broomstick marked in purple chalk",
        ".",
        "What do the children of Tarn Ridge measure the snow with?",
    ),
    _needle(
        "The baker Anton Feld wraps his almond loaves in",
        "old sea maps tied with red string",
        ".",
        "What does the baker Anton Feld wrap his almond loaves in?",
    ),
)
