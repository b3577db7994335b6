"""Products of low rank, against the same computed whole."""

from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from shared.model.lowrank import decompose, one_thread


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize(("outputs", "rank", "inputs"), [(40, 6, 30), (5, 9, 30), (40, 9, 4)])
def test_it_is_the_decomposition_of_the_whole_product(outputs: int, rank: int, inputs: int) -> None:
    rng = np.random.default_rng(0)
    b, a = rng.standard_normal((outputs, rank)), rng.standard_normal((rank, inputs))
    u, sizes, vt = decompose(b, a)
    kept = min(outputs, rank, inputs)
    np.testing.assert_allclose(sizes[:kept], np.linalg.svd(b @ a)[1][:kept], rtol=1e-10)
    np.testing.assert_allclose(u * sizes @ vt, b @ a, atol=1e-12)
    np.testing.assert_allclose(u.T @ u, np.eye(u.shape[1]), atol=1e-12)


def test_one_thread_computes_it_and_then_there_are_as_many_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    during, qr = list[set[int]](), np.linalg.qr

    def watched(matrix: np.ndarray) -> Any:
        during.append(threads())
        return qr(matrix)

    monkeypatch.setattr(np.linalg, "qr", watched)
    with threadpool_limits(2, user_api="blas"):
        decompose(np.ones((40, 3)), np.ones((3, 30)))
        assert (during, threads()) == ([{1}, {1}], {2})
        with pytest.raises(ValueError, match="no"), one_thread():
            raise ValueError("no")
        assert threads() == {2}, "after an error, too"
