"""Items like those in the history, by what the catalogue says of them: words and categories, weighed by TF-IDF.

An item's vector is [tfidf(words); c tfidf(categories)] at length 1, both parts at length 1 before (Salton & Buckley
1988, "Term-weighting approaches in automatic text retrieval"); a user's is the mean of their items' (Pazzani & Billsus
2007, "Content-based recommendation systems"); the score is their cosine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from scipy import sparse

from recsys_spark.config import Section
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.models.base import NO_OPINION, Floats, Ints, TrainingData, UserBlock, read_card, write_card

if TYPE_CHECKING:
    import pandas as pd

_WORD = r"(?u)\b\w\w+\b"


class Config(Section):
    """What of the catalogue is read, and how it is weighed."""

    category_weight: float = Field(1.0, ge=0)
    """c: how much all the categories of an item count against all of its words."""
    min_items: int = Field(2, ge=1)
    """A word that fewer items have is ignored: nothing else is like it."""
    max_words: int = Field(100_000, ge=1)
    """Words of the vocabulary, the most frequent ones."""
    weighted: bool = True
    """Take the mean of the history by its weights; false: every item counts alike."""
    cold_items: bool = False
    """Recommend items of the catalogue without a training row as well."""
    max_items: int = Field(2_000_000, ge=1)
    """Most items whose texts are collected on the driver, at about 1 KB each; a larger catalogue is refused."""


class Content:
    """Scores are cosines between a history's mean and the items; nothing is said of an item without a text."""

    name = "content"
    dot_product = False
    rates = False

    def __init__(self, vectors: sparse.csr_array, items: Ints, n_items: int, weighted: bool) -> None:
        """Take the items' vectors.

        Args:
            vectors: float32 [M, V], each of length 1.
            items: the M items that they are of.
        """
        self.vectors = vectors
        self.items = items
        self.n_items = n_items
        self.weighted = weighted
        self._by_token = vectors.T.tocsr()
        self._place = np.full(n_items, -1)
        self._place[items] = np.arange(len(items))

    def score(self, users: UserBlock) -> Floats:
        users = users.among(self._place >= 0)
        if self.weighted:
            users = users.where(users.weights > 0)
        values = users.weights if self.weighted else np.ones(len(users.items), np.float32)
        shape = len(users), len(self.items)
        histories = sparse.csr_array((values, self._place[users.items], users.offsets), shape)
        profiles = unit_rows(histories @ self.vectors)  # [B, V]; at length 1 the mean is the sum
        scores = np.full((len(users), self.n_items), NO_OPINION)
        scores[:, self.items] = (profiles @ self._by_token).toarray()
        scores[np.diff(users.offsets) == 0] = NO_OPINION
        return scores

    def save(self, path: Path) -> None:
        sparse.save_npz(path / "vectors.npz", self.vectors, compressed=False)
        np.save(path / "items.npy", self.items)
        write_card(path, self.name, n_items=self.n_items, weighted=self.weighted)


def load(path: Path) -> Content:
    """Read a saved model."""
    card = read_card(path)
    vectors = sparse.csr_array(sparse.load_npz(path / "vectors.npz"))
    return Content(vectors, np.load(path / "items.npy"), card["n_items"], card["weighted"])


def needs(config: Config) -> list[str]:
    """Name what `fit` wants beside the interactions."""
    return ["items"]


def fit(data: TrainingData, config: Config) -> Content:
    """Weigh the catalogue's words and categories on the driver.

    Raises:
        ConfigError: the catalogue has more than `max_items` items.
        DataError: no item to be recommended has a text or a category.
    """
    assert data.items is not None  # see `needs`
    trained = data.interactions.select("item_id").distinct()
    catalogue = data.items.select("item_id", "title", "description", "categories")
    if not config.cold_items:
        catalogue = catalogue.join(trained, "item_id", "left_semi")
    size = catalogue.count()
    if size > config.max_items:
        raise ConfigError(
            f"content: {size} items, models.content.max_items is {config.max_items}; "
            "raise it, or leave content out of train.baselines"
        )
    rows = catalogue.toPandas().sort_values("item_id", ignore_index=True)
    vectors = vectorise(rows, config)
    told = np.diff(vectors.indptr) > 0
    if not told.any():
        raise DataError(
            f"no word or category to compare {size} items by: the catalogue needs title, description or categories; "
            "mend log.items, or leave content out of train.baselines"
        )
    if not told.all():
        print(f"warning: content: {(~told).sum()} of {size} items have no text or category", file=sys.stderr)
    items = rows["item_id"].to_numpy(np.int64)[told]
    largest = trained.agg({"item_id": "max"}).first()[0] or 0
    return Content(vectors[told], items, int(max(largest, items[-1])) + 1, config.weighted)


def vectorise(rows: pd.DataFrame, config: Config) -> sparse.csr_array:
    """Return the items' vectors, float32 [M, V]: of length 1, or 0 for an item without a token.

    Args:
        rows: `title` and `description`, texts or None; `categories`, lists or None.
    """
    texts = (rows["title"].fillna("") + " " + rows["description"].fillna("")).to_list()
    categories = [[c for c in of if c] if of is not None else [] for of in rows["categories"]]
    words = _tfidf(texts, token_pattern=_WORD, min_df=config.min_items, max_features=config.max_words)
    kinds = _tfidf(categories, analyzer=list) * np.float32(config.category_weight)
    both = sparse.hstack([words, kinds], format="csr")
    both.eliminate_zeros()
    return unit_rows(both)


def _tfidf(documents: list[Any], **settings: Any) -> sparse.csr_array:
    """Return tf (1 + ln(n / n_t)) for every token, float32 [M, V], at length 1; no column where no token is left."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # here: a served model needs no vocabulary

    vectorizer = TfidfVectorizer(dtype=np.float32, smooth_idf=False, **settings)
    try:
        return sparse.csr_array(vectorizer.fit_transform(documents))
    except ValueError:  # nothing but empty documents, or no word that min_items of them have
        return sparse.csr_array((len(documents), 0), dtype=np.float32)


def unit_rows(matrix: sparse.csr_array) -> sparse.csr_array:
    """Return a matrix with its rows brought to length 1; rows of 0 stay.

    >>> unit_rows(sparse.csr_array(np.array([[3.0, 4.0], [0.0, 0.0]]))).toarray()
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scaled = matrix.copy()
    scaled.data /= np.repeat(np.where(lengths > 0, lengths, 1), np.diff(matrix.indptr)).astype(scaled.dtype)
    return scaled
