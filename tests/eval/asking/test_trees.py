"""Requests in rows: what is shared stands once. That each token reads its own past is shown by `test_sweep.py`."""

import random

import numpy as np

from eval.asking.trees import Asked, pack_chains, pack_trees, plain_tokens, share_requests


def _requests(seed=0, questions=12):
    """Questions with four answers each, half of them under one common beginning; some answers begin alike."""
    draw = random.Random(seed)

    def some(least, most):
        return tuple(draw.randrange(9) for _ in range(draw.randint(least, most)))

    common, found = some(20, 20), []
    for question in range(questions):
        context = (common if question % 2 else ()) + some(5, 30)
        for answer in dict.fromkeys(some(1, 6) for _ in range(4)):
            found.append(Asked((*context, *answer)[:-1], answer))
    return found


def test_trees_share_and_fill_and_never_split_a_context():
    requests = _requests(questions=40)
    rows = pack_trees(requests, range(len(requests)), 150)
    home = {number: index for index, row in enumerate(rows) for number in row.asked}
    for context in {request.context for request in requests}:
        assert len({home[n] for n, request in enumerate(requests) if request.context == context}) == 1
    assert max(map(len, rows)) <= 150
    assert np.mean([len(row) for row in rows[:-1]]) > 100
    assert sum(map(len, rows)) < sum(len(context) + 24 for context in {request.context for request in requests})
    assert sum(map(len, rows)) < 0.5 * plain_tokens(requests)


def test_a_question_longer_than_a_row_gets_its_own():
    long = Asked(tuple(range(50)), (49, 1))
    rows = pack_trees([long, Asked((1, 2, 3), (4,))], [0, 1], 10)
    assert sorted(map(len, rows)) == [3, 50]


def test_a_chain_holds_what_begins_it():
    requests = [Asked((1, 2, 3), (9,)), Asked((1, 2), (3,)), Asked((1, 2, 3), (8,)), Asked((1, 3), (3, 4))]
    rows = pack_chains(requests, range(4))
    assert sorted(map(len, rows)) == [2, 3]
    assert plain_tokens(requests) == 7
    assert all((row.parent == np.arange(len(row)) - 1).all() for row in rows)


def test_processes_share_contexts_whole_and_have_about_as_much_to_read():
    requests = _requests(questions=60)
    shares = [share_requests(requests, rank, 3) for rank in range(3)]
    assert (sum(share.astype(int) for share in shares) == 1).all()
    contexts = [{requests[n].context for n in np.flatnonzero(share)} for share in shares]
    assert sum(map(len, contexts)) == len({request.context for request in requests})
    read = [plain_tokens([requests[n] for n in np.flatnonzero(share)]) for share in shares]
    assert max(read) < 1.3 * min(read)
    assert share_requests(requests, 0, 1).all()


def test_a_row_grows_while_its_contexts_share_long_examples():
    """Examples longer than a row's usual bound are read once for several questions, and no row passes the limit."""
    examples = tuple(range(500))
    asked = [Asked((*examples, 1000 + n, 1001 + n, 1002 + n), (7,)) for n in range(0, 1500, 5)]
    alone = pack_trees(asked, range(len(asked)), 384)
    assert len(alone) == len(asked)
    shared = pack_trees(asked, range(len(asked)), 384, 1024)
    assert max(map(len, shared)) <= 1024
    assert sum(map(len, shared)) < sum(map(len, alone)) / 50
    assert sorted(number for row in shared for number in row.asked) == list(range(len(asked)))
    for row in shared:
        for number, places in zip(row.asked, row.places, strict=True):
            path, place = [], places[-1]
            while place >= 0:
                path.append(row.tokens[place])
                place = row.parent[place]
            assert tuple(path[::-1]) == asked[number].tokens


def test_questions_that_share_little_are_packed_as_without_a_limit():
    asked = [Asked((1, 2, 3, *range(100 + n, 160 + n)), (7,)) for n in range(0, 3000, 100)]
    plain, limited = (pack_trees(asked, range(len(asked)), 384, most) for most in (None, 4096))
    assert [row.asked for row in plain] == [row.asked for row in limited]
