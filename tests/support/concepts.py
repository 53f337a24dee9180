"""Samples of words made by hand, and a stand-in for the tagger."""

from prune.instruments.concepts.occurrences import Occurrence, Sample
from prune.instruments.concepts.tagging import Tag
from prune.instruments.concepts.words import Word


def sample_of(words):
    """A sample of one window, each word an occurrence of one token."""
    made = [Word(word, 0, len(word), True) for word in words]
    occurrences = [Occurrence(0, place, place + 1, place + 2, word) for place, word in enumerate(made)]
    return Sample([[0] * (len(made) + 1)], [made], occurrences, len(made), 0)


class StandInTagger:
    """Tags a word by its letters alone: what begins with a capital is a name, other words go by their length."""

    def tag(self, contexts):
        for words, spaces in contexts:
            assert len(words) == len(spaces)
            yield [self._tag(word) for word in words]

    @staticmethod
    def _tag(word):
        name = word[0].isupper()
        return Tag("NNP" if name else "NN", f"of {len(word)}", "NAME" if name else None, word.lower())


def stand_in(monkeypatch):
    """Have labels come from the stand-in, as if the extra were installed."""
    from prune.instruments.concepts import tagging

    monkeypatch.setattr(tagging, "missing_packages", lambda kinds=(): [])
    monkeypatch.setattr(tagging, "Tagger", StandInTagger)
    monkeypatch.setattr(tagging, "read_synonyms", lambda: {"big": ["large", "great"], "large": ["big"]})
