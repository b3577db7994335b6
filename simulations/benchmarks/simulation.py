"""What a simulated federation costs: ours beside Flower's own simulation (on Ray), and beside pfl 0.6.

50 institutions with 32 short texts each fine-tune MiniLM-L6 with LoRA of rank 8 for two rounds of one epoch, and score
8 texts each after every round. Flower's side is the fine-tuning recipe of its documentation (a Hugging Face model with
peft, a DataLoader and AdamW in every ClientApp) on its Simulation Runtime with one actor per core; pfl's is a
PyTorchModel with the same peft model, FederatedAveraging and its SimulatedBackend, in one process as it comes. Both
compute in float32 as documented. Ours is `collegium simulate` with a worker per core, in the precision that it chooses.
CPU seconds are of all processes of a side, from the start of its interpreter to its end, imports among them; what is
compared is how often ours fits into the other's.

The other sides need `ray` (`pip install 'collegium[ray]'`) and `pfl` (`pip install --no-deps 'pfl==0.6.*'` and
`pip install multiprocess prv-accountant`) in this environment, or in that of the interpreter which the variable
COLLEGIUM_BENCHMARK_PYTHON names, with Collegium's other packages.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import tomli_w

from shared.errors import ConfigError, ProcessError
from shared.model.backbone import ALIASES
from simulations.benchmarks.measured import Asked, Cell, Comparison, Findings, Goal, Spread, Table

CLIENTS, SMALL, TRAIN, VALIDATION, ROUNDS = 50, 2, 32, 8, 2
GOALS = {"flower": Goal(kind="at least", value=4.0), "pfl": Goal(kind="at least", value=1.5)}
NAMES = {"flower": "Flower's simulation on Ray", "pfl": "pfl 0.6"}
LABELS = ("payment", "liability", "notice")
WORDS = (
    "buyer seller party agreement invoice thirty days loss profit shall pay court of the to by any within fee claim law"
)
POLL_SECONDS = 0.1
PYTHON = "COLLEGIUM_BENCHMARK_PYTHON"
MARK = "COLLEGIUM_BENCHMARK"
"""In the environment of every process of a side."""
DATA = "COLLEGIUM_BENCHMARK_DATA"
TICKS = os.sysconf("SC_CLK_TCK")

MODEL = """
import json, os, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
PLAN = json.loads((Path(os.environ["COLLEGIUM_BENCHMARK_DATA"]) / "plan.json").read_text())

def build():
    torch.manual_seed(13)
    model = AutoModelForSequenceClassification.from_pretrained(PLAN["backbone"], num_labels=len(PLAN["labels"]))
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=["query", "key", "value", "dense"], exclude_modules=["pooler.dense"],
        modules_to_save=["classifier"], task_type="SEQ_CLS",
    )
    return get_peft_model(model, config)

def held(client):
    return json.loads((Path(os.environ["COLLEGIUM_BENCHMARK_DATA"]) / f"{client}.json").read_text())
"""

FLOWER = """
from flwr.app import ArrayRecord, MetricRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

client_app, server_app = ClientApp(), ServerApp()

def loader(client, split, **options):
    tokenizer = AutoTokenizer.from_pretrained(PLAN["backbone"])
    rows = [
        dict(tokenizer(row["text"], truncation=True, max_length=128), labels=PLAN["labels"].index(row["label"]))
        for row in held(client)[split]
    ]
    return DataLoader(rows, batch_size=16, collate_fn=DataCollatorWithPadding(tokenizer), **options)

def loaded(message):
    model = build()
    set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    return model

@client_app.train()
def train(message, context):
    model, rows = loaded(message), loader(context.node_config["partition-id"], "train", shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PLAN["rate"])
    model.train()
    for batch in rows:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    arrays = ArrayRecord(get_peft_model_state_dict(model))
    metrics = MetricRecord({"loss": loss.item(), "num-examples": len(rows.dataset)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

@client_app.evaluate()
def evaluate(message, context):
    model, rows = loaded(message), loader(context.node_config["partition-id"], "validation")
    model.eval()
    with torch.no_grad():
        right = sum(int((model(**batch).logits.argmax(-1) == batch["labels"]).sum()) for batch in rows)
    metrics = MetricRecord({"score": right / len(rows.dataset), "num-examples": len(rows.dataset)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)

@server_app.main()
def main(grid, context):
    strategy = FedAvg(
        fraction_train=1.0, fraction_evaluate=1.0, min_available_nodes=PLAN["clients"],
        min_train_nodes=PLAN["clients"], min_evaluate_nodes=PLAN["clients"],
    )
    arrays = ArrayRecord(get_peft_model_state_dict(build()))
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=PLAN["rounds"])
    score = result.evaluate_metrics_clientapp[PLAN["rounds"]]["score"]
    (Path(os.environ["COLLEGIUM_BENCHMARK_DATA"]) / "flower.score").write_text(str(score))

run_simulation(
    server_app, client_app, PLAN["clients"],
    backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": os.cpu_count()}},
)
"""

PFL = """
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel

class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = build()

    def loss(self, ids, mask, labels, eval=False):
        self.eval() if eval else self.train()
        return self.inner(input_ids=ids.long(), attention_mask=mask.long(), labels=labels.long()).loss

    @torch.no_grad()
    def metrics(self, ids, mask, labels, eval=False):
        if len(labels) != PLAN["validation"]:  # spares it the scores of training records before and after training
            return {}
        self.eval() if eval else self.train()
        logits = self.inner(input_ids=ids.long(), attention_mask=mask.long()).logits
        right = int((logits.argmax(-1) == labels.long()).sum())
        return {"score": Weighted(right, len(labels))}

tokenizer = AutoTokenizer.from_pretrained(PLAN["backbone"])

def users(split):
    def made(client):
        rows = held(client)[split]
        texts = tokenizer([row["text"] for row in rows], truncation=True, max_length=128, padding=True)
        labels = [PLAN["labels"].index(row["label"]) for row in rows]
        return Dataset(raw_data=[np.array(texts["input_ids"]), np.array(texts["attention_mask"]), np.array(labels)])
    clients = list(range(PLAN["clients"]))
    return FederatedDataset(made, get_user_sampler("minimize_reuse", clients))

from pfl.callback.base import TrainingProcessCallback

class Last(TrainingProcessCallback):
    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        scores = {str(name): value for name, value in aggregate_metrics.to_simple_dict().items()}
        (Path(os.environ["COLLEGIUM_BENCHMARK_DATA"]) / "pfl.score").write_text(
            str(next(value for name, value in scores.items() if "score" in name))
        )
        return False, Metrics()

network = Classifier()
trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
model = PyTorchModel(network, torch.optim.AdamW, torch.optim.SGD(trained, lr=1.0))
FederatedAveraging().run(
    algorithm_params=NNAlgorithmParams(
        central_num_iterations=PLAN["rounds"], evaluation_frequency=1,
        train_cohort_size=PLAN["clients"], val_cohort_size=PLAN["clients"],
    ),
    backend=SimulatedBackend(training_data=users("train"), val_data=users("validation")),
    model=model,
    model_train_params=NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=PLAN["rate"], local_batch_size=16
    ),
    model_eval_params=NNEvalHyperParams(local_batch_size=None),
    callbacks=[Last()],
)
"""

OURS = """
import json, os
from pathlib import Path
from simulations.simulate import run_experiment

if __name__ == "__main__":
    folder = Path(os.environ["COLLEGIUM_BENCHMARK_DATA"])
    said = []
    run_experiment(
        folder / "experiment.toml", data=None, limit=None, workdir=folder / "ours", announce=said.append, workers=None
    )
    (last,) = [line for line in said if line.startswith("Round 2 of 2: validation score ")]
    (folder / "ours.score").write_text(last.split("validation score ")[1].split(",")[0])
"""
SIDES = {"ours": OURS, "flower": MODEL + FLOWER, "pfl": MODEL + PFL}


def findings(asked: Asked) -> Findings:
    """Every side in every turn."""
    python = interpreter()
    turns = [measure(python, SMALL if asked.small else CLIENTS) for _ in range(asked.turns)]
    seconds = {side: [turn[side]["cpu_seconds"] for turn in turns] for side in SIDES}
    speeds = {side: [1 / value for value in values] for side, values in seconds.items()}
    comparisons = [
        Comparison(
            subject="collegium simulate",
            against=NAMES[side],
            unit="runs per CPU second",
            ours=speeds["ours"],
            theirs=speeds[side],
            goal=goal,
        )
        for side, goal in GOALS.items()
    ]
    kinds = ("cpu_seconds", "seconds", "megabytes", "score")
    rows: list[list[Cell]] = [
        [
            NAMES.get(side, "collegium simulate"),
            *(Spread.of([turn[side][kind] for turn in turns]).median for kind in kinds),
        ]
        for side in SIDES
    ]
    columns = ["side", "CPU seconds", "seconds", "most megabytes (PSS)", "accuracy of the last state"]
    return Findings(comparisons=comparisons, tables=[Table(title="Medians", columns=columns, rows=rows)])


def interpreter() -> Path:
    """Of the other sides. Raises ConfigError if ray or pfl is not there."""
    python = Path(os.environ.get(PYTHON) or sys.executable)
    found = subprocess.run([python, "-c", "import ray, pfl"], capture_output=True, check=False)
    if found.returncode:
        raise ConfigError(
            f"Expected ray and pfl 0.6 beside {python}, but it cannot import them; install them there as `collegium "
            f"bench` says of this benchmark, or name an interpreter that has them in {PYTHON}."
        )
    return python


def measure(python: Path, clients: int = CLIENTS) -> dict[str, dict[str, float]]:
    """One turn: each side once, on the same texts.

    Args:
        python: The interpreter of all sides but ours.
        clients: Institutions.

    Returns:
        By side, `cpu_seconds` and `seconds` from start to end, the most `megabytes` (proportional set size of all its
        processes, looked at every POLL_SECONDS) and its `score`, the accuracy of the last state on validation texts.

    Raises:
        ProcessError: A side failed; with the end of what it said.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="collegium-simulation-") as name:
        folder = Path(name)
        write_plan(folder, clients)
        for side, code in SIDES.items():
            found[side] = _run(code, Path(sys.executable) if side == "ours" else python, folder)
            found[side]["score"] = float((folder / f"{side}.score").read_text())
    return found


def write_plan(folder: Path, clients: int) -> None:
    """The same texts for all sides: `plan.json` and a file per client, and an experiment file of them for ours."""
    rng = random.Random(13)

    def text(number: int) -> dict[str, str]:
        label = LABELS[number % len(LABELS)]
        words = rng.choices(WORDS.split(), k=rng.randint(8, 48))
        words.insert(rng.randrange(len(words)), label)
        return {"text": " ".join(words) + ".", "label": label}

    backbone, rate = ALIASES["minilm-l6"](), 1e-3
    plan = {"backbone": str(backbone), "labels": LABELS, "clients": clients, "rounds": ROUNDS, "rate": rate}
    (folder / "plan.json").write_text(json.dumps({**plan, "validation": VALIDATION}))
    institutions = {}
    for client in range(clients):
        splits = {"train": [*map(text, range(TRAIN))], "validation": [*map(text, range(VALIDATION))]}
        (folder / f"{client}.json").write_text(json.dumps(splits))
        for split, records in splits.items():
            (folder / f"{client}.{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        institutions[f"client-{client:03d}"] = {"clauses": {split: f"{client}.{split}.jsonl" for split in splits}}
    experiment = {
        "baselines": [],
        "federation": {
            "name": "benchmark",
            "backbone": {"name": "minilm-l6", "max_length": 128},
            "adapter": {"rank": 8, "alpha": 16.0},
            "training": {"epochs_per_round": 1, "batch_tokens": 512, "learning_rate": rate},
            "rounds": {"count": ROUNDS, "method": "fedavg"},
            "tasks": {"clauses": {"type": "text-classification", "labels": LABELS}},
        },
        "institutions": institutions,
    }
    (folder / "experiment.toml").write_text(tomli_w.dumps(experiment))
    (folder / "ours").mkdir()


def _run(code: str, python: Path, folder: Path) -> dict[str, float]:
    mark, root = uuid.uuid4().hex, str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        MARK: mark,
        DATA: str(folder),
        "PYTHONPATH": root,
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }
    script, log = folder / f"{mark}.py", folder / f"{mark}.log"
    script.write_text(code)
    started, cpu, most = time.monotonic(), dict[int, float](), 0.0
    with log.open("wb") as out:
        process = subprocess.Popen([str(python), str(script)], env=environment, stdout=out, stderr=out, cwd=folder)
    while process.poll() is None:
        seen = _processes(mark)
        cpu |= {number: seconds for number, (seconds, _) in seen.items()}
        most = max(most, sum(megabytes for _, megabytes in seen.values()))
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - started
    if process.returncode:
        raise ProcessError(f"A side of the benchmark failed: {log.read_text(errors='replace')[-1500:]}")
    return {"cpu_seconds": round(sum(cpu.values()), 2), "seconds": round(seconds, 1), "megabytes": round(most)}


def _processes(mark: str) -> Mapping[int, tuple[float, float]]:
    """CPU seconds and megabytes (PSS) of every process of a side that lives now."""
    found: dict[int, tuple[float, float]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, StopIteration, IndexError):
            if mark.encode() not in (entry / "environ").read_bytes():
                continue
            user, system = (entry / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
            lines = (entry / "smaps_rollup").read_text().splitlines()
            kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            found[int(entry.name)] = (int(user) + int(system)) / TICKS, kilobytes / 1024
    return found
