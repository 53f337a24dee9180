"""How well the words of documents match those of queries, by BM25: the baseline that needs no model. Arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_K1 = 1.5  # from which number of repeats on more of them hardly count; 1.2 to 2 is usual
_B = 0.75  # how much long documents are held back: 0 not at all, 1 in full proportion
_WORD = r"\w+"


def bm25_scores(documents: Sequence[str], queries: Sequence[str]) -> NDArray[np.float64]:
    """BM25 of D documents for Q queries, shape (D, Q); 0 where they share no word, never below.

    The formula is Robertson's and Zaragoza's (The Probabilistic Relevance Framework: BM25 and Beyond, 2009). Inside the
    logarithm one is added, as Lucene does, so that no word has a weight below 0:

        score(d, q) = sum over the words w of q of  idf(w) f(w, d) (k1 + 1) / (f(w, d) + k1 (1 - b + b |d| / mean |d|)),
        idf(w) = ln(1 + (D - n(w) + 1/2) / (n(w) + 1/2)),

    f(w, d) is how often w stands in d, |d| how many words d has, n(w) in how many documents w stands. A word that
    stands twice in the query counts twice. Words are runs of letters and digits, without case.

    Raises:
        ValueError: no document, or no word in any.
    """
    from scipy import sparse
    from sklearn.feature_extraction.text import CountVectorizer

    if not documents:
        raise ValueError("no document to score")
    counter = CountVectorizer(token_pattern=_WORD, dtype=np.float64)
    counts = counter.fit_transform(documents).tocoo()
    number, words = counts.shape
    lengths = np.bincount(counts.row, counts.data, minlength=number)
    holding = np.bincount(counts.col, minlength=words)
    rarity = np.log1p((number - holding + 0.5) / (holding + 0.5))
    usual = _K1 * (1 - _B + _B * lengths / lengths.mean())
    weights = rarity[counts.col] * counts.data * (_K1 + 1) / (counts.data + usual[counts.row])
    table = sparse.csr_array((weights, (counts.row, counts.col)), shape=(number, words))
    asked = sparse.csr_array(counter.transform(queries)) if len(queries) else sparse.csr_array((0, words))
    return np.asarray((table @ asked.T).toarray(), dtype=np.float64)
