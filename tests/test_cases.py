"""Files as people have them: each folder of small inputs is read, or refused in words that say what to do."""

import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from client.answers.predicting import predict_stream
from client.data.loading import check_rows, paths_of
from client.data.sources import BadRow
from client.institution import load_institution
from client.keys import generate_node_key
from client.service import daemon
from collegium.__main__ import app
from server.enrolment.authority import create_authority
from shared.adapter import get_state
from shared.bundle import write_bundle
from shared.config import read_toml
from shared.errors import CollegiumError, ConfigError
from shared.federation import Federation, load_federation
from shared.inference.model import ReleasedModel
from shared.inference.opening import open_model
from shared.model.backbone import fingerprint
from shared.model.multitask import build_model
from shared.tasks import build_task

CASES = Path(os.environ.get("COLLEGIUM_CASES", Path(__file__).parents[2] / "shared" / "cases"))
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no example files in {CASES}")
BACKBONE = re.compile(r'name = "minilm-l6"\s+sha256 = "[0-9a-f]{64}"')
PAGE = 10_000
"""Characters that anybody may be shown, whatever is in the files."""
MORE_TASKS = {
    "topics": {"type": "text-classification", "labels": ["positive", "negative"]},
    "codes": {"type": "text-classification", "labels": ["A01", "B02"], "multi_label": True},
    "entities": {"type": "token-classification", "types": ["Drug", "Disease"]},
    "pairs": {"type": "text-pair-classification", "labels": ["yes", "no"]},
    "questions": {"type": "question-answering"},
    "relations": {"type": "relation-extraction", "labels": ["treats", "none"]},
    "summaries": {"type": "extractive-summarization"},
    "writing": {"type": "text-generation", "max_target_tokens": 4, "beams": 1},
    "next": {"type": "next-sentence-prediction"},
}


@pytest.fixture
def case(tmp_path: Path, tiny_bert: Path) -> Callable[[str], Path]:
    """Copies a folder, with the tiny BERT in the place of its backbone and what its README says is to be made."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(CASES / name, folder, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        backbone = f'name = "{tiny_bert}"\nsha256 = "{fingerprint(tiny_bert)}"'
        for file in folder.glob("*.toml"):
            content = file.read_bytes()
            if not content.startswith((b"\xff\xfe", b"\xfe\xff")):
                file.write_bytes(BACKBONE.sub(backbone, content.decode()).replace("PORT", "28999").encode())
        if name in MAKE:
            MAKE[name](folder, backbone)
        return folder

    return copy


def make_long_field(folder: Path, backbone: str) -> None:
    (folder / "train.csv").write_text("text,label\n" + f"{'long ' * 40_000},positive\nshort,negative\n" * 3)


def make_long_summaries(folder: Path, backbone: str) -> None:
    record = {"sentences": ["One sentence of many words in a long document."] * 400, "summary": ["One sentence."]}
    (folder / "train.jsonl").write_text(f"{json.dumps(record)}\n" * 3)


def make_codes(folder: Path, backbone: str) -> None:
    """A federation of as many codes as the test records bear, spelt with a dot after the third character."""
    records = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    dotted = [record | {"labels": [f"{code[:3]}.{code[3:]}" for code in record["labels"]]} for record in records]
    labels = sorted({code for record in dotted for code in record["labels"]})
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in dotted))
    federation = read_toml(CASES / "one-record" / "federation.toml")
    federation["tasks"] = {"icd": {"type": "text-classification", "labels": labels, "multi_label": True}}
    (folder / "federation.toml").write_text(BACKBONE.sub(backbone, tomli_w.dumps(federation)))


MAKE: dict[str, Callable[[Path, str], None]] = {
    "csv-long-field": make_long_field,
    "long-summaries": make_long_summaries,
    "icd-dots": make_codes,
    "many-labels": make_codes,
}


def troubles(folder: Path) -> list[str]:
    """What is wrong with an institution's files: the error of a whole file, or each bad row."""
    try:
        institution = load_institution(folder / "institution.toml")
        federation = load_federation(institution.federation)
        tasks = {name: build_task(name, spec) for name, spec in federation.tasks.items()}
        return [
            f"{path.name}, line {number}: {row.what}"
            for name, source in institution.data.items()
            for path in paths_of(source).values()
            for number, row in check_rows(path, tasks[name], source)
            if isinstance(row, BadRow)
        ]
    except CollegiumError as error:
        return [str(error)]


def run(*words: str | Path) -> str:
    """What a command prints, or the sentence that it ends with; nothing else may end it."""
    result = CliRunner().invoke(app, list(map(str, words)))
    if isinstance(result.exception, CollegiumError):
        return str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


READ = [
    "csv-bracket-text",
    "csv-newlines",
    "csv-deep-brackets",
    "csv-huge-number",
    "csv-float-labels",
    "csv-long-field",
    "jsonl-int-labels",
    "jsonl-int-labels-renamed",
    "jsonl-bool-labels",
    "multi-ints",
    "multi-csv-ints",
    "multi-empty",
    "odd-labels",
    "odd-types",
    "one-class",
    "one-record",
    "parquet-null-optional",
    "parquet-dictionary",
    "summary-csv-query",
    "relation-squad-null",
    "relations-edge",
    "zero-width",
    "toml-bom",
    "simulate-no-test",
    "long-summaries",
    "dp-delta-half",
    "dp-eps-huge",
    "dp-eps-tiny",
    "dp-one-owner",
    "dp-rate-1",
    "lr-absurd",
    "lr-big",
    "restart-fresh-state",
    "two-daemons",
    "state-not-writable",
]
REFUSED = [
    ("csv-half-emoji-in-list", r"train.csv, line \d+: expected a list as JSON in 'tokens'.* half a character"),
    ("csv-python-lists", r"expected a list as JSON in 'tokens', .* a Python list came, .* json\.dumps"),
    ("csv-semicolon", "columns between commas, but semicolons seem to stand between them"),
    ("csv-semicolon-commas", "columns between commas, but semicolons seem to stand between them"),
    ("csv-header-spaces", "its column is called 'Text', so rename it to 'text'"),
    ("csv-utf16", "UTF-16"),
    ("csv-latin1", "Windows-1252"),
    ("doccano-export", "expected a list of words in 'tokens', but None came"),
    ("json-array", "a list begins; write one object per line"),
    ("json-array-oneline", "a list came; write one object per line"),
    ("multi-joined", r"line 2: expected a list as JSON in 'labels', such as \[\"a\", \"b\"\]"),
    ("ner-bioes", 'add scheme = "BIOES"'),
    ("ner-underscore", "tag 'B_Disease' at token 1 is not among the federation's"),
    ("ner-int-tags", "tag 1 at token 0 is not among the federation's"),
    ("label-null", "line 4: expected a label in 'label', but there is none"),
    ("ner-i-start", 'add scheme = "IOB"'),
    ("parquet-binary-text", r"expected text in 'text', but b'The clinic"),
    ("qa-answer-start", r"rename 'answer_start' to 'start'"),
    ("qa-hf-squad", "that is SQuAD's own form: make one object of each answer"),
    ("qa-utf16-offsets", "expected answer '12 euros' at character 20 of the context"),
    ("group-by-misspelt", r"line 1: expected an owner in the column 'Patient' \(group_by\), but none came"),
    ("group-by-null", r"line 4: expected an owner in the column 'patient' \(group_by\), but none came"),
    ("group-by-nan", r"line 1: expected an owner in the column 'patient' \(group_by\), but none came"),
    ("summary-text", "expected a list of sentences in 'summary', but 'One.' came"),
    ("icd-dots", r"label 'S7459' is not among .*, and \d+ more\]; if 'S74.59' is meant, add rename"),
    ("many-labels", r"label 'X02786' is not among .*, and \d+ more\]; if 'X02.786' is meant, add rename"),
    ("deadline-inf", "rounds.deadline_seconds: .*finite number, not inf"),
    ("dp-eps-inf", "privacy.epsilon: .*finite number, not inf"),
    ("lr-inf", "training.learning_rate: .*finite number, not inf"),
    ("lr-nan", "training.learning_rate: .*finite number, not nan"),
    ("policy-inf", "policy.max_norm: .*finite number, not inf"),
]
PREDICTED = ["predict", "predict-null-optional", "predict-tokens-string", "predict-unlabelled"]


def test_every_folder_is_a_test() -> None:
    folders = {path.name for path in CASES.iterdir() if path.is_dir()}
    assert folders == {*READ, *(name for name, _ in REFUSED), *PREDICTED}


@pytest.mark.parametrize("name", READ)
def test_it_is_read(case: Callable[[str], Path], name: str) -> None:
    assert troubles(case(name)) == []


@pytest.mark.parametrize(("name", "said"), REFUSED)
def test_it_is_refused_in_words_that_help(case: Callable[[str], Path], name: str, said: str) -> None:
    folder = case(name)
    found = troubles(folder)
    assert found
    assert re.search(said, found[0]), found
    doctor = run("client", "doctor", "--no-forecast", folder / "institution.toml")
    assert len(doctor) < 2 * PAGE
    if (folder / "experiment.toml").exists() and name != "policy-inf":  # an experiment has no policy
        sentence = run("simulate", folder / "experiment.toml", "--workdir", folder / "run")
        assert re.search(said.replace("train.csv, ", ""), sentence), sentence
        assert len(sentence) < PAGE


NOT_TRAINED = {
    "dp-delta-half": "accepts a delta of at most 1e-05",
    "dp-eps-tiny": "Expected a target epsilon that noise can meet",
    "dp-one-owner": "mean score",
    "lr-absurd": "Expected at least 1 valid updates in round 1",
    "lr-big": "mean score|Expected at least 1 valid updates",
    "jsonl-int-labels-renamed": "label '1' is not among",  # the experiment renames nothing
    "multi-ints": "all 1 are held out",
    "multi-csv-ints": "all 1 are held out",
    "simulate-no-test": "mean score: none",
    "csv-bracket-text": "mean score: none",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_it_is_simulated(case: Callable[[str], Path], name: str) -> None:
    folder = case(name)
    if not (folder / "experiment.toml").exists():
        pytest.skip("a site alone")
    said = run("simulate", folder / "experiment.toml", "--workdir", folder / "run")
    assert re.search(NOT_TRAINED.get(name, "mean score"), said), said


def test_a_file_in_utf16_is_called_that(case: Callable[[str], Path]) -> None:
    folder = case("toml-bom")
    with pytest.raises(ConfigError, match="it is UTF-16"):
        load_institution(folder / "institution-utf16.toml")


def test_a_state_folder_that_cannot_be_written_is_one_sentence(case: Callable[[str], Path]) -> None:
    folder = case("state-not-writable")
    site = load_institution(folder / "institution.toml")
    try:
        site.runtime.state.mkdir()
    except OSError:
        pass
    else:
        site.runtime.state.rmdir()
        pytest.skip(f"here {site.runtime.state} can be made")
    enrol(folder)
    said = f"Expected a folder that can be written to at {site.runtime.state}"
    assert said in " ".join(run("client", "doctor", "--no-forecast", folder / "institution.toml", "--json").split())
    with pytest.raises(CollegiumError, match=said):
        daemon.serve(folder / "institution.toml", stop=threading.Event(), announce=lambda _: None)


def test_a_second_daemon_is_refused(case: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = enrol(case("two-daemons")) / "institution.toml"
    said: list[str] = []

    def serve_again(*_: object, **__: object) -> None:
        with pytest.raises(ConfigError, match=f"process {os.getpid()} already serves it") as caught:
            daemon.serve(path, stop=threading.Event(), announce=lambda _: None)
        said.append(str(caught.value))

    monkeypatch.setattr(daemon, "supervise", serve_again)
    daemon.serve(path, stop=threading.Event(), announce=lambda _: None)
    assert said


def test_a_site_that_has_lost_its_state_folder_starts(
    case: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the coordinator still counts its last process as online is for `tests/client/service/test_daemon.py`."""
    folder = enrol(case("restart-fresh-state"))
    monkeypatch.setattr(daemon, "supervise", lambda *_, **__: None)
    for _ in range(2):
        daemon.serve(folder / "institution.toml", stop=threading.Event(), announce=lambda _: None)
        shutil.rmtree(folder / "state")


def enrol(folder: Path) -> Path:
    """Give a site what it needs to start."""
    generate_node_key(folder / "node.key")
    (folder / "ca.crt").write_bytes(create_authority().certificate)
    return folder


PREDICTIONS = [
    ("predict/codes-other.jsonl", "codes", 1),
    ("predict/empty.jsonl", "topics", 0),
    ("predict/entities-othertags.jsonl", "entities", 1),
    ("predict/other-label.jsonl", "topics", 2),
    ("predict/pairs-null.jsonl", "pairs", 1),
    ("predict/questions-hf.jsonl", "questions", 1),
    ("predict/questions-null.jsonl", "questions", 1),
    ("predict/relations.jsonl", "relations", 1),
    ("predict/summaries-null.jsonl", "summaries", 1),
    ("predict/unlabelled-null.jsonl", "topics", 2),
    ("predict/unlabelled.csv", "topics", 2),
    ("predict/writing-null.jsonl", "writing", 1),
    ("predict-null-optional/summaries-null.jsonl", "summaries", 1),
    ("predict-unlabelled/unlabelled.csv", "topics", 2),
]
UNPREDICTABLE = [
    ("predict/entities-pandas-unlabelled.csv", "entities", "line 2: expected a list as JSON .* a Python list came"),
    ("predict/entities-string.jsonl", "entities", "line 1: expected a list of words in 'tokens', but 'Aspirin helps'"),
    ("predict/missing-field.jsonl", "topics", "line 2: expected text in 'text', but None came"),
    ("predict/next-one.jsonl", "next", "line 2: expected a list of at least two sentences"),
    ("predict/one-empty-text.jsonl", "topics", "2 of 4 rows .* line 2: .*; line 3: expected text in 'text', but '   '"),
    ("predict/one-null-text.jsonl", "topics", "line 2: expected text in 'text', but None came"),
    ("predict/questions-empty.jsonl", "questions", "line 1: expected text in 'context'.* line 2: .* 'question'"),
    ("predict/summaries-empty.jsonl", "summaries", "line 2: expected a list of sentences.* line 3: .* at sentence 0"),
    ("predict-tokens-string/entities-string.jsonl", "entities", "line 1: expected a list of words in 'tokens'"),
]


@pytest.fixture(scope="module")
def released(tiny_federation: Callable[..., Federation], tmp_path_factory: pytest.TempPathFactory) -> ReleasedModel:
    federation = tiny_federation(tasks=MORE_TASKS)
    folder = tmp_path_factory.mktemp("release") / "bundle"
    state = get_state(build_model(federation))
    return open_model(write_bundle(folder, federation, state, {}, metrics={"settings": {}}, readme="untrained"))


def test_every_file_to_predict_is_a_test() -> None:
    files = {f"{folder}/{file.name}" for folder in PREDICTED for file in (CASES / folder).iterdir()}
    assert files == {path for path, *_ in (*PREDICTIONS, *UNPREDICTABLE)}


@pytest.mark.parametrize(("path", "task", "count"), PREDICTIONS)
def test_it_is_predicted(
    released: ReleasedModel, capsys: pytest.CaptureFixture[str], path: str, task: str, count: int
) -> None:
    predict_stream(released, [task], str(CASES / path), "-")
    assert len(capsys.readouterr().out.splitlines()) == count


@pytest.mark.parametrize(("path", "task", "said"), UNPREDICTABLE)
def test_a_row_that_cannot_be_read_is_named(released: ReleasedModel, path: str, task: str, said: str) -> None:
    with pytest.raises(CollegiumError, match=said):
        predict_stream(released, [task], str(CASES / path), "-")
