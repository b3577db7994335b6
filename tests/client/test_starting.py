"""What an institution's process loads: nothing that only others need."""

import subprocess
import sys
from pathlib import Path

import pytest

TRAINS = """
import json, sys
from pathlib import Path

from shared.process.memory import loading
with loading():
    import client.app, client.service.executor
from client.institution import Data, Institution
from client.opening import build_site
from client.privacy.owners import Private
from client.train import trainer
from shared.federation import Privacy
from shared.model.multitask import build_model
from simulations.attacks.stage import tiny_federation, write_tiny_bert

folder = Path(sys.argv[1])
tasks = {"mood": {"type": "text-classification", "labels": ["good", "bad"]}}
federation = tiny_federation(write_tiny_bert(folder), ["hospital"], tasks=tasks)
federation = federation.model_copy(update={"tasks": {"mood": federation.tasks["mood"]}})
file = folder / "mood.jsonl"
file.write_text("".join(json.dumps({"text": f"It was {x}.", "label": x}) + "\\n" for x in ("good", "bad") * 4))
site = build_site(
    Institution(name="hospital", data={"mood": Data(train=file, validation=file)}), federation, build_model(federation)
)
examples = site.examples("train")
owners = {(e.task, e.record): str(e.record) for e in examples}
for private in (None, Private(Privacy(noise_multiplier=1.0, sampling_rate=0.5), 1.0, owners)):
    trainer.train(site.model, examples, federation.training, seed=1, private=private)
    print("opacus" in sys.modules)
"""


@pytest.mark.slow
def test_opacus_is_loaded_for_private_steps_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TRAINS, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "True"]
