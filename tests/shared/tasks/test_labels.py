"""Scores of single labels are scikit-learn's, to the last digit."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from shared.tasks.labels import label_scores


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = ["payment", "liability", "notice", "B", "a"][: 1 + seed % 5]
    truth, found = (rng.choice(labels, size=1 + 7 * seed).tolist() for _ in range(2))
    found = truth if seed % 7 == 6 else found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert label_scores(truth, found) == {
            "macro_f1": float(f1_score(truth, found, average="macro", zero_division=0)),
            "accuracy": float(accuracy_score(truth, found)),
            "mcc": float(matthews_corrcoef(truth, found)),
        }
