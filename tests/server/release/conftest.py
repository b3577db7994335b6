"""A coordinator's folder with a run of three institutions, of a model of a few numbers, without torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from server.home import ServerHome
from server.opening import open_store
from server.rounds import loop
from server.store import Store
from shared.bundle.consent import Consent, consent_text, sign_consent
from shared.codec import Arrays
from shared.federation import Federation, federation_toml
from shared.nodekeys import line_of

NAMES = ("hospital", "law_firm", "bank")
LAYER = "adapter/base_model.model.encoder.layer.0.attention.self.query"
STATE: Arrays = {
    f"{LAYER}.lora_A.weight": np.ones((4, 32), np.float32),
    f"{LAYER}.lora_B.weight": np.zeros((32, 4), np.float32),
    "head/clauses/linear.weight": np.zeros((2, 32), np.float32),
    "head/clauses/linear.bias": np.zeros(2, np.float32),
}
SCORES = {"hospital": 0.9, "law_firm": 0.8, "bank": 0.7}


@dataclass
class World:
    """A folder, and what is done with it."""

    home: ServerHome
    federation: Federation
    grid: Any
    keys: Mapping[str, ec.EllipticCurvePrivateKey]
    folder: Path

    def open(self) -> Store:
        return open_store(self.home.root)

    def run(
        self, parent: tuple[str, int] | None = None, tell: Callable[[Store, str], None] = lambda store, text: None
    ) -> str:
        """Run the federation to its end; `tell` hears what is announced."""
        with self.open() as store:
            run = store.create_run(self.federation, parent)
            loop.run(
                self.grid,
                federation=self.federation,
                store=store,
                run_id=run,
                initial_state=STATE,
                announce=lambda text: tell(store, text),
                poll_seconds=0.0,
            )
        return run

    @property
    def lines(self) -> dict[str, str]:
        """The institutions' public keys."""
        return {name: line_of(key.public_key()) for name, key in self.keys.items()}

    def consent(self, release: str, name: str, **changes: Any) -> Path:
        """A file of an institution's consent."""
        about = {"release": release, "agreement": self.federation.digest, "licences": {"clauses": "CC-BY-4.0"}}
        key = changes.pop("key", self.keys[name])
        made: Consent = sign_consent(key, name=name, time="2026-11-29T12:00:00+00:00", **(about | changes))
        file = self.folder / f"{name}.{len(list(self.folder.glob('*.consent')))}.consent"
        file.write_bytes(consent_text(made))
        return file


@pytest.fixture
def world(
    home: ServerHome, tiny_federation: Callable[..., Federation], tmp_path: Path, scripted_grid: Any,
    scripted_institution: Any,
) -> Callable[..., World]:  # fmt: skip
    """Makes one; keyword tables go into its agreement."""

    def make(**tables: Any) -> World:
        tasks = {"clauses": {"type": "text-classification", "labels": ["payment", "liability"]}}
        values = tiny_federation(NAMES, **({"tasks": tasks, "rounds": {"count": 3}} | tables))
        federation = values.model_copy(update={"tasks": {"clauses": values.tasks["clauses"]}})
        home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
        scripts = {}
        for name in NAMES:
            held = {"clauses": {"train": 40, "validation": 10, "test": 10}}
            scripts[name] = scripted_institution(name, held, move=0.01)
            scripts[name].score = lambda request, name=name: SCORES[name] + request.round / 100
        keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in NAMES}
        return World(home, federation, scripted_grid(scripts), keys, tmp_path)

    return make
