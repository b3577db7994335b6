"""Combining losses, against slow oracles."""

import numpy as np
import pytest
import torch

from shared.model.losses import backward_with_projection, gradient_norms, mean_over_rows, parts, project_conflicts

LOSSES = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([10.0])}


def test_without_weights_every_row_counts_the_same() -> None:
    assert mean_over_rows(LOSSES).item() == pytest.approx(4.0)
    assert torch.equal(mean_over_rows(LOSSES), mean_over_rows(LOSSES, {"a": 1.0, "b": 1.0}))


def test_a_weight_multiplies_rows_and_the_divisor_stays_the_number_of_rows() -> None:
    weights = {"a": 0.5, "b": 3.0}
    slow = sum(weights[task] * float(loss) for task, losses in LOSSES.items() for loss in losses) / 4
    assert mean_over_rows(LOSSES, weights).item() == pytest.approx(slow)


def test_parts_add_up_to_the_mean() -> None:
    weights = {"a": 0.5, "b": 3.0}
    divided = parts(LOSSES, weights)
    assert divided["b"].item() == pytest.approx(3.0 * 10 / 4)
    assert sum(part.item() for part in divided.values()) == pytest.approx(mean_over_rows(LOSSES, weights).item())


def slow_pcgrad(gradients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Algorithm 1 of Yu et al. 2020, word by word, over [tasks, parameters]."""
    total = np.zeros(gradients.shape[1])
    for i in range(len(gradients)):
        g = gradients[i].copy()
        for j in rng.permutation(len(gradients)):
            if j == i:
                continue
            inner = sum(g[k] * gradients[j][k] for k in range(len(g)))
            if inner < 0:
                g = g - inner / sum(x * x for x in gradients[j]) * gradients[j]
        total += g
    return total


@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
def test_projection_equals_the_paper_word_by_word(tasks: int) -> None:
    values = np.random.default_rng(tasks).normal(size=(tasks, 7)).astype(np.float32)
    gradients = [(torch.from_numpy(row[:4].reshape(2, 2)), torch.from_numpy(row[4:])) for row in values]
    for seed in range(5):
        fast = project_conflicts(gradients, np.random.default_rng(seed))
        assert [piece.shape for piece in fast] == [(2, 2), (3,)]
        flat = np.concatenate([piece.numpy().ravel() for piece in fast])
        np.testing.assert_allclose(flat, slow_pcgrad(values, np.random.default_rng(seed)), atol=1e-5)


def test_what_does_not_conflict_is_only_added() -> None:
    gradients = [(torch.tensor([1.0, 0.0]),), (torch.tensor([1.0, 2.0]),), (torch.tensor([0.0, 0.0]),)]
    (total,) = project_conflicts(gradients, np.random.default_rng(0))
    assert total.tolist() == [2.0, 2.0]


def test_two_opposed_tasks_leave_only_what_is_orthogonal() -> None:
    (total,) = project_conflicts([(torch.tensor([1.0, 0.0]),), (torch.tensor([-2.0, 1.0]),)], np.random.default_rng(0))
    np.testing.assert_allclose(total.numpy(), [1 - 4 / 5 + 0, 2 / 5 + 1], atol=1e-6)


def test_heads_keep_their_gradient_and_shared_parameters_add_up() -> None:
    shared = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    unused = torch.nn.Parameter(torch.tensor([1.0]))
    head = torch.nn.Parameter(torch.tensor(3.0))
    for turn in (1, 2):  # gradients of two passes add up
        losses = {"a": head * shared[0], "b": -2 * shared[0] + shared[1]}
        backward_with_projection(losses, [shared, unused], np.random.default_rng(0))
        assert head.grad is not None
        assert head.grad.item() == turn
        assert shared.grad is not None
        left = slow_pcgrad(np.array([[3.0, 0.0], [-2.0, 1.0]]), np.random.default_rng(0))
        np.testing.assert_allclose(shared.grad.numpy(), turn * left, atol=1e-6)
        assert unused.grad is not None
        assert unused.grad.item() == 0


def test_norms_are_per_task_and_leave_gradients_alone() -> None:
    first, second = (torch.nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(2))
    losses = {"a": first.sum() + 2 * second.sum(), "b": (first**2).sum() / 2}
    norms = gradient_norms(losses, [first, second])
    assert norms == pytest.approx({"a": 10**0.5, "b": 5.0})
    assert first.grad is None
    losses["a"].backward()  # type: ignore[no-untyped-call]
