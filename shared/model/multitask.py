"""One BERT, one LoRA adapter, many heads: the model that a federation trains."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from peft import LoraConfig, PeftModel
from torch import nn
from torch.nn import functional
from transformers import BertModel, PreTrainedTokenizerFast

from shared.adapter import set_some, task_of, tensors
from shared.federation import Federation
from shared.model.backbone import LoadedBackbone, load_backbone
from shared.model.encoder import Encoder
from shared.model.frozen import FrozenStates
from shared.model.initial import begin, check_adapter, check_length
from shared.model.lora import Base, Shared, adapt, add_lora
from shared.model.packed import PAD_MULTIPLE, Apart, moved
from shared.tasks import Example, Task, build_task
from shared.tasks.heads import Head, Tensors, build_head


@dataclass(frozen=True)
class Batch:
    """Rows of several tasks, padded together.

    `input_ids`, `attention_mask` and `token_type_ids` are [rows, length]; `rows[task]` holds the row numbers of a
    task, `inputs[task]` what its head needs beside their states and `targets[task]` their targets, aligned with them.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor
    rows: Mapping[str, torch.Tensor]
    inputs: Mapping[str, Tensors]
    targets: Mapping[str, Tensors]
    lengths: Sequence[int]
    """Sub-tokens of each row: in main memory, wherever the batch is."""
    varied: frozenset[int] = frozenset()
    """Rows of which nothing is remembered, since they are others every time (`Example.varies`)."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; on a GPU soon, for nobody waits for it."""
        return Batch(
            moved(self.input_ids, device),
            moved(self.attention_mask, device),
            moved(self.token_type_ids, device),
            {task: moved(rows, device) for task, rows in self.rows.items()},
            _to(self.inputs, device),
            _to(self.targets, device),
            self.lengths,
            self.varied,
        )


@dataclass(frozen=True)
class Flat:
    """All that a model is made of, in torch's order, found once: to walk through it takes longer than a short text."""

    modules: Sequence[nn.Module]
    encoder: Sequence[nn.Parameter]
    heads: Sequence[nn.Parameter]

    @classmethod
    def of(cls, model: "MultiTaskModel") -> Self:
        """What a model is made of now."""
        return cls(list(model.modules()), list(model.encoder.parameters()), list(model.heads.parameters()))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of the encoder, then those of the heads, each once."""
        return list(dict.fromkeys([*self.encoder, *self.heads]))


class MultiTaskModel(nn.Module):
    """A frozen BERT with LoRA and one head per task; one encoder forward serves rows of every task.

    With `frozen`, where heads alone are trained, it serves the same text ever after, and has no dropout. With `lower`,
    layers below the lowest adapted one do.
    """

    def __init__(
        self,
        encoder: PeftModel,
        backbone: LoadedBackbone,
        tasks: Mapping[str, Task],
        dropout: float,
        frozen: FrozenStates | None = None,
        lower: FrozenStates | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.frozen = frozen
        self.base = Base(encoder)
        self._encode = Encoder(encoder, lower)
        self.tokenizer: PreTrainedTokenizerFast = backbone.tokenizer
        self.tasks = dict(tasks)
        embeddings = backbone.encoder.embeddings.word_embeddings.weight
        self.heads = nn.ModuleDict({name: build_head(task, embeddings, dropout) for name, task in tasks.items()})
        self.flat = Flat.of(self)
        self.named: dict[str, nn.Parameter] = {}
        """What `shared.adapter.tensors` has found."""

    def add_head(self, task: str, head: nn.Module) -> None:
        """Put a head of another task beside the others."""
        self.heads[task] = head
        self.flat, self.named = Flat.of(self), {}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def packs(self) -> bool:
        """Whether the encoder passes rows without padding, and can tell each owner's gradient."""
        return self._encode.is_known()

    def forward(self, batch: Batch, apart: Apart | None = None) -> dict[str, torch.Tensor]:
        """Logits per task, rows in the order of `batch.rows[task]`.

        With `apart`, if the encoder `packs`, a backward pass leaves the gradients of the adapter there, by owner.
        """
        return self.read(self._states(batch, apart), batch)

    def read(self, states: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """As `forward`, of the encoder's states [rows, length, hidden]."""
        mask = batch.attention_mask
        return {
            task: self.heads[task](states[rows], mask[rows], batch.inputs[task]) for task, rows in batch.rows.items()
        }

    def twin(self) -> "MultiTaskModel":
        """A model over the same frozen weights, with an adapter and heads of its own, in the same state."""
        own = set(tensors(self).values())
        kept: list[Any] = [parameter for parameter in self.parameters() if parameter not in own]
        kept += [*self.buffers(), *self.tasks.values(), self.tokenizer, self.base, self._encode, self.frozen]
        twin = copy.deepcopy(self, {id(one): one for one in kept})
        twin.base, twin._encode = Shared(self.base), self._encode.twin(twin.encoder)
        return twin

    def infer(self, batch: Batch) -> dict[str, torch.Tensor]:
        """What each task's `predict` reads, rows in the order of `batch.rows[task]`."""
        states, mask = self._states(batch), batch.attention_mask
        return {
            task: self._head(task).infer(states[rows], mask[rows], batch.inputs[task])
            for task, rows in batch.rows.items()
        }

    def states(self, input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """The encoder's states of texts, [rows, length, hidden]; the arguments are [rows, length]."""
        return self._encode(input_ids, mask, types)

    def losses(self, batch: Batch, logits: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss of every row, per task: [rows of the task]."""
        return {task: self._head(task).loss(logits[task].float(), batch.targets[task]) for task in batch.rows}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad examples of any tasks to one batch."""
        longest = max(len(example) for example in examples)
        length = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE
        pad = self.tokenizer.pad_token_id
        input_ids = torch.full((len(examples), length), int(pad), dtype=torch.long)
        token_type_ids = torch.zeros((len(examples), length), dtype=torch.long)
        attention_mask = torch.zeros((len(examples), length), dtype=torch.long)
        rows: dict[str, list[int]] = {}
        for row, example in enumerate(examples):
            input_ids[row, : len(example)] = torch.tensor(example.input_ids)
            token_type_ids[row, : len(example)] = torch.tensor(example.token_type_ids)
            attention_mask[row, : len(example)] = 1
            rows.setdefault(example.task, []).append(row)
        targets = {
            task: self._head(task).collate([examples[row].target for row in numbers], length)
            for task, numbers in rows.items()
            if all(examples[row].target for row in numbers)
        }
        inputs = {
            task: self._head(task).inputs([examples[row] for row in numbers], length) for task, numbers in rows.items()
        }
        index = {task: torch.tensor(numbers) for task, numbers in rows.items()}
        varied = frozenset(row for row, example in enumerate(examples) if example.varies)
        return Batch(
            input_ids, attention_mask, token_type_ids, index, inputs, targets, list(map(len, examples)), varied
        )

    def _head(self, task: str) -> Head:
        head = self.heads[task]
        assert isinstance(head, Head)
        return head

    def train(self, mode: bool = True) -> Self:
        """As in torch; an encoder that is not trained has no dropout."""
        for module in self.flat.modules:
            module.__dict__["training"] = mode  # as an assignment, which torch makes ten times as slow
        if self.frozen:
            self.encoder.eval()
        return self

    def _states(self, batch: Batch, apart: Apart | None = None) -> torch.Tensor:
        texts = batch.input_ids, batch.attention_mask, batch.token_type_ids
        if self.frozen:
            return self.frozen.of(*texts, self._encode, varied=batch.varied)
        return self._encode(*texts, lengths=batch.lengths, varied=batch.varied, apart=apart)


def states_together(models: Sequence[MultiTaskModel], batches: Sequence[Batch]) -> list[torch.Tensor]:
    """The encoder's states of a batch of each model, in one pass: [rows, length, hidden] each.

    Args:
        models: One and its twins, of which each `packs`.
        batches: On their device, one of each.
    """
    longest = max(batch.input_ids.shape[1] for batch in batches)

    def joined(name: str) -> torch.Tensor:
        texts = [getattr(batch, name) for batch in batches]
        return torch.cat([functional.pad(text, (0, longest - text.shape[1])) for text in texts])

    sizes = [len(batch.lengths) for batch in batches]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    first, *others = (model._encode for model in models)
    states = first(
        *map(joined, ("input_ids", "attention_mask", "token_type_ids")),
        lengths=[length for batch in batches for length in batch.lengths],
        varied={start + row for start, batch in zip(starts, batches, strict=True) for row in batch.varied},
        beside=others,
        whose=[number for number, size in enumerate(sizes) for _ in range(size)],
    )
    return [own[:, : batch.input_ids.shape[1]] for own, batch in zip(torch.split(states, sizes), batches, strict=True)]


def build_model(
    federation: Federation,
    *,
    backbone: str | None = None,
    rank: int | None = None,
    released: LoraConfig | None = None,
) -> MultiTaskModel:
    """The federation's model in its initial state, the same wherever it is built.

    Args:
        federation: The agreement.
        backbone: Where this machine keeps the backbone, if not where the federation file says.
        rank: Of the adapter, where this institution's is lower than `adapter.rank`.
        released: The peft configuration of a released adapter, if the model is for one.

    Raises:
        BackboneError: The backbone is missing or is not the agreed one.
        ConfigError: The adapter or the maximal length does not fit the backbone.
    """
    loaded = load_backbone(backbone or federation.backbone.name, federation.backbone.sha256)
    check_length(loaded.shape, federation)
    tasks = {name: build_task(name, spec) for name, spec in federation.tasks.items()}
    frozen, lower = (None, FrozenStates()) if not federation.method.frozen else (FrozenStates(), None)
    with torch.random.fork_rng(devices=[]):  # what torch would begin with, nobody keeps
        if released:  # which reads every text once, in a state that comes with it
            return MultiTaskModel(adapt(loaded.encoder, released), loaded, tasks, federation.training.head_dropout)
        check_adapter(loaded.shape, federation)
        initial = begin(federation, loaded.shape, lambda name: weight_of(loaded.encoder, name))
        encoder = add_lora(loaded.encoder, federation.adapter, federation.method, initial, rank)
        model = MultiTaskModel(encoder, loaded, tasks, federation.training.head_dropout, frozen, lower)
        set_some(model, {name: array for name, array in initial.items() if task_of(name)})
        return model


def weight_of(encoder: BertModel, name: str) -> np.ndarray:
    """A matrix of the encoder, as float32."""
    return encoder.get_parameter(name).detach().float().numpy()


def _to(groups: Mapping[str, Tensors], device: torch.device) -> dict[str, Tensors]:
    return {task: {key: moved(tensor, device) for key, tensor in tensors.items()} for task, tensors in groups.items()}
