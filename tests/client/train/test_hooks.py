"""When hooks are called, in plain and in private steps, and what they find."""

import logging
from collections.abc import Callable, Collection

import pytest
import torch

from client.privacy.owners import Private
from client.site import Site
from client.train import trainer
from client.train.hooks import Hook, LoggedProgress
from shared.federation import Privacy
from shared.model.multitask import MultiTaskModel

MakeSite = Callable[..., Site]
CLIP = {"clip_norm": 1e-3, "batch_tokens": 64, "head_dropout": 0.0}


class Recorder(Hook):
    """Writes down every moment, and how long the gradient is then."""

    def __init__(self) -> None:
        self.moments: list[str] = []
        self.norms: dict[str, list[float]] = {"on_gradient": [], "before_step": []}

    def begin(self, model: MultiTaskModel, tasks: Collection[str]) -> None:
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.tasks = list(tasks)
        self.moments.append("begin")

    def on_gradient(self) -> None:
        self._measure("on_gradient")

    def before_step(self) -> None:
        self._measure("before_step")

    def after_step(self, done: int, steps: int) -> None:
        self.moments.append(f"{done} of {steps}")

    def _measure(self, moment: str) -> None:
        self.moments.append(moment)
        found = [parameter.grad for parameter in self._trained if parameter.grad is not None]
        self.norms[moment].append(float(torch.cat([gradient.flatten() for gradient in found]).norm()))


def in_order(steps: int) -> list[str]:
    return ["begin", *(m for n in range(steps) for m in ("on_gradient", "before_step", f"{n + 1} of {steps}"))]


def test_a_plain_step_clips_between_its_two_moments(make_site: MakeSite) -> None:
    site, recorder = make_site("clauses", "entities", training=CLIP), Recorder()
    outcome = trainer.train(site.model, site.examples("train"), site.federation.training, seed=1, hooks=[recorder])
    assert outcome.steps > 1
    assert recorder.tasks == ["clauses", "entities"]
    assert recorder.moments == in_order(outcome.steps)
    assert min(recorder.norms["on_gradient"]) > 2e-3
    assert max(recorder.norms["before_step"]) < 1.001e-3


def test_what_a_hook_adds_counts_from_its_moment_on(make_site: MakeSite) -> None:
    """What joins the gradient is clipped with it, what comes after the clip is not."""

    class Push(Hook):
        def __init__(self, moment: str) -> None:
            setattr(self, moment, self.push)

        def begin(self, model: MultiTaskModel, tasks: Collection[str]) -> None:
            self._bias = next(p for name, p in model.heads["clauses"].named_parameters() if name.endswith("bias"))

        def push(self) -> None:
            assert self._bias.grad is not None
            self._bias.grad += 1.0

    site = make_site("clauses", training=CLIP)
    training, longest = site.federation.training, {}
    for moment in ("on_gradient", "before_step"):
        recorder = Recorder()
        trainer.train(site.model, site.examples("train"), training, seed=1, hooks=[Push(moment), recorder])
        longest[moment] = max(recorder.norms["before_step"])
    assert longest["on_gradient"] < 1.001e-3
    assert longest["before_step"] > 1.0


def test_a_private_step_shows_hooks_the_noisy_gradient_alone(make_site: MakeSite) -> None:
    site, recorder = make_site("clauses", training=CLIP), Recorder()
    examples = site.examples("train")
    owners = {(example.task, example.record): str(example.record) for example in examples}
    private = Private(Privacy(noise_multiplier=1e6, clip=1.0, sampling_rate=0.5), 1e6, owners)
    outcome = trainer.train(site.model, examples, site.federation.training, seed=1, private=private, hooks=[recorder])
    assert outcome.steps == 2
    assert recorder.moments == in_order(2)
    assert recorder.norms["on_gradient"] == recorder.norms["before_step"]
    assert min(recorder.norms["on_gradient"]) > 1e6, "noise, and no clip after it"


def test_progress_is_logged_now_and_then_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr("client.train.hooks.time.monotonic", lambda: now)
    caplog.set_level(logging.INFO, "collegium.client")
    progress = LoggedProgress("round 2")
    for done in range(1, 31):
        now += 1.0
        progress.after_step(done, 30)
    assert [record.message for record in caplog.records] == [f"round 2: step {n} of 30" for n in (10, 20, 30)]
