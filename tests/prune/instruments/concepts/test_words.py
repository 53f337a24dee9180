"""Words, their sentences, and the tokens that they are made of."""

from prune.instruments.concepts.words import align, split_words


def spelt(text):
    return [word.text for word in split_words(text)]


def test_contractions_initials_and_marks_are_words_of_their_own():
    assert spelt("It's what they don't know: 3,000 U.S. dogs’ well-being.") == [
        *(
            "It",
            "'s",
            "what",
            "they",
            "do",
            "n't",
            "know",
            ":",
            "3,000",
            "U.S.",
            "dogs",
            "’",
            "well",
            "-",
            "being",
            ".",
        ),
    ]
    assert spelt("A 1990s R2D2 costs 3.5 %") == ["A", "1990s", "R2D2", "costs", "3.5", "%"]
    assert [word.is_mark for word in split_words("a – 7 .")] == [False, True, False, True]


def test_blanks_are_kept():
    text = "One two,  three.\nFour"
    words = split_words(text)
    assert [word.space for word in words] == [True, False, True, False, True, False]
    assert [text[word.start : word.stop] for word in words] == [word.text for word in words]


def test_sentences_begin_and_end_where_they_do():
    text = 'Dr. J. Smith left. "He came back," she said! Then 3 of them\n\nslept. and dreamt'
    words = split_words(text)
    assert [word.text for word in words if word.first] == ["Dr", "He", "Then", "slept"]
    assert [word.text for word in words if word.last] == ["left", "said", "them", "dreamt"]


def test_tokens_go_to_the_word_that_they_stand_in():
    text = "An unhappy café won"
    words = split_words(text)
    offsets = [(0, 2), (2, 5), (5, 10), (10, 14), (14, 15), (14, 15), (15, 19)]  # blanks at the front; é of two tokens
    assert align(words, text, offsets) == [(0, 1), (1, 3), (3, 6), (6, 7)]


def test_a_word_that_shares_a_token_is_left_out():
    text = "so-called rest"
    words = split_words(text)
    assert align(words, text, [(0, 3), (3, 9), (9, 14)]) == [None, None, (1, 2), (2, 3)]
    assert align(words, text, [(0, 2), (2, 3), (3, 14)]) == [(0, 1), (1, 2), None, None]
    assert align(words, text, []) == [None] * 4
