"""A small site with receipts and a ledger, and a coordinator that can send it whatever it likes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from client.app import build_app
from client.keys import generate_node_key
from client.opening import open_site
from shared import codec
from shared.adapter import get_state, is_received, of_tasks
from shared.codec import Arrays
from shared.federation import federation_toml
from shared.flower.messages import TaskIdentity
from shared.model.multitask import build_model
from shared.protocol import PROTOCOL_VERSION, REPLIES, decode
from simulations.attacks.stage import tiny_federation, write_tiny_bert

Splits = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""By task and split, records."""
CONTEXT = Context(run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config={})


class Victim:
    """One institution, `hospital`, with all that a deployed one has but the network.

    Args:
        folder: An empty one.
        data: Its records.
        policy: Its `[policy]`.
        tables: Change the federation.
    """

    def __init__(self, folder: Path, data: Splits, *, policy: Mapping[str, Any] | None = None, **tables: Any) -> None:
        bert = folder / "bert"
        bert.mkdir(parents=True)
        self.federation = tiny_federation(write_tiny_bert(bert), **tables)
        self._path = folder / "institution.toml"
        (folder / "federation.toml").write_text(federation_toml(self.federation), encoding="utf-8")
        generate_node_key(folder / "node.key")
        files: dict[str, dict[str, str]] = {}
        for task, splits in data.items():
            for split, records in splits.items():
                file = folder / f"{task}.{split}.jsonl"
                file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
                files.setdefault(task, {})[split] = str(file)
        values = {"name": "hospital", "data": files, "policy": dict(policy or {})}
        self._path.write_text(tomli_w.dumps(values), encoding="utf-8")
        self._model = build_model(self.federation)
        self.initial = get_state(self._model)
        self.restart()

    def restart(self) -> None:
        """As if the daemon had been stopped and started."""
        self._model.base.reset()
        self.site = open_site(self._path, model=self._model)

    def blob(self, changed: Mapping[str, np.ndarray] | None = None) -> bytes:
        """The initial state, with some arrays changed, as the coordinator would send it."""
        state = of_tasks(self.initial, self.site.data.keys())
        received: Arrays = {name: array for name, array in state.items() if is_received(name, self.federation.method)}
        return codec.encode(received | dict(changed or {}), "float32")

    def ask(self, kind: str, body: Mapping[str, Any], **blobs: bytes) -> Any:
        """The reply to a message whose fields are these, whatever they are; None if it got none.

        Args:
            kind: `TrainRequest` or another.
            body: Fields beside the blobs; the right digest and run `r1` unless they say otherwise.
            blobs: `state` and `base`.
        """
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        fields = (
            {"spec_digest": self.federation.digest} | ({} if kind == "QueryRequest" else {"run": "r1"}) | dict(body)
        )
        header = ConfigRecord({"version": PROTOCOL_VERSION, "kind": kind, "body": json.dumps(fields)})
        arrays = {name: Array(np.frombuffer(blob, dtype=np.uint8)) for name, blob in blobs.items()}
        records = RecordDict({"header": header})
        if arrays:
            records["arrays"] = ArrayRecord(arrays)
        of = {"TrainRequest": "train", "EvaluateRequest": "evaluate"}.get(kind, "query")
        message = Message(records, 7, of)
        message.metadata.__dict__["_message_id"] = "m"
        try:
            return decode(build_app(lambda _: self.site)(message, CONTEXT).content, *REPLIES)
        except Exception:  # the executor makes an error of it that says no more than its kind
            return None

    def train(self, state: bytes | None = None, **body: Any) -> Any:
        """The reply to a train request; of round 1 unless `body` says otherwise."""
        fields = {"round": 1, "rounds": self.federation.rounds.count} | body
        return self.ask("TrainRequest", fields, state=self.blob() if state is None else state, base=b"")

    def evaluate(self, state: bytes, **body: Any) -> Any:
        """The reply to an evaluate request."""
        return self.ask("EvaluateRequest", body, state=state, base=b"")
