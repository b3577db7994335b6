"""Label smoothing of every task type that chooses one label, against the smoothed target written out."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from shared.tasks import TaskSpec, build_task
from shared.tasks.heads import build_head

SPECS: TypeAdapter[TaskSpec] = TypeAdapter(TaskSpec)
TYPES = ("text-classification", "text-pair-classification", "relation-extraction")
LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def losses(task_type: str, gold: torch.Tensor, **options: object) -> torch.Tensor:
    spec = SPECS.validate_python({"type": task_type, "labels": ["a", "b", "c"]} | options)
    return build_head(build_task("mine", spec), torch.zeros(5, 8), 0.0).loss(LOGITS, {"labels": gold})


@pytest.mark.parametrize("task_type", TYPES)
def test_a_share_of_the_target_is_spread_over_all_labels(task_type: str) -> None:
    gold = torch.tensor([0, 2, 1, 1])
    target = 0.8 * torch.eye(3)[gold] + 0.2 / 3
    slow = -(target * torch.log_softmax(LOGITS, 1)).sum(1)
    torch.testing.assert_close(losses(task_type, gold, label_smoothing=0.2), slow)
    assert torch.equal(losses(task_type, gold, label_smoothing=0.0), losses(task_type, gold))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
@pytest.mark.parametrize("task_type", TYPES)
def test_a_share_is_below_one(task_type: str, smoothing: float) -> None:
    with pytest.raises(ValidationError, match="label_smoothing"):
        losses(task_type, torch.tensor([0]), label_smoothing=smoothing)
