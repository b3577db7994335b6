"""The federation file: every error at once, and a digest that means the agreement."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shared.errors import ConfigError
from shared.federation import Federation, Privacy, Training, agreement, federation_toml, load_federation
from simulations.nodekeys import public_keys

VALID = """
name = "demo"
[backbone]
sha256 = "{sha}"
[tasks.clauses]
type = "text-classification"
labels = ["a", "b"]
[rounds]
institutions = ["hospital", "bank"]
quorum = 1
""".format(sha="0" * 64)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "federation.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    federation = load_federation(write(tmp_path, VALID))
    assert federation.adapter.rank == 8
    assert federation.wire.up == federation.wire.down == "float16"
    assert federation.tasks["clauses"].weight == 1.0


def test_all_errors_are_named_at_once(tmp_path: Path) -> None:
    text = VALID.replace('name = "demo"', 'name = "Demo!"\nspeed = 3').replace(
        "quorum = 1", "quorum = 5\n[adapter]\nrank = 0"
    )
    with pytest.raises(ConfigError) as caught:
        load_federation(write(tmp_path, text))
    message = str(caught.value)
    assert "federation.toml" in message
    assert "speed is not a known key" in message
    assert "name: " in message
    assert "adapter.rank" in message
    assert "quorum must be at most the 2 institutions" in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('type = "text-classification"', 'type = "text-classificaton"', "question-answering"),
        ('sha256 = "' + "0" * 64 + '"', "", "backbone.sha256 is required"),
        ("[tasks.clauses]", "[tasks.Clauses]", "a task name must be"),
        ('["hospital", "bank"]', '["bank", "bank"]', "named once each"),
        ("quorum = 1", "quorum = 1\ncount = 'x'", "rounds.count"),
        ("[rounds]", "weight = 0\n[rounds]", "tasks.clauses.weight"),
        ("[rounds]", "weight = inf\n[rounds]", "tasks.clauses.weight"),
        ("[rounds]", "[training]\noptimizer = 'adam'\n[rounds]", "'adamw' or 'sgd'"),
        ("[rounds]", "[training]\nschedule = 'step'\n[rounds]", "'linear', 'cosine' or 'constant'"),
        (
            "[rounds]",
            "[adapter]\ntarget_modules = 'all'\n[rounds]",
            r"one of \['query,value', 'all-linear'\], not 'all'",
        ),
        (
            "[rounds]",
            "[adapter]\nlayers = 'top-0'\n[rounds]",
            "such as \"top-3\", or a list of layer numbers, not 'top-0'",
        ),
        ("[rounds]", "[adapter]\nlayers = 3\n[rounds]", "adapter.layers: must be .* a list of layer numbers, not 3"),
        ("[rounds]", "[adapter]\nlayers = []\n[rounds]", r"a list of layer numbers, not \[\]"),
        ("[rounds]", "[adapter]\nlayers = [true]\n[rounds]", r"a list of layer numbers, not \[True\]"),
        ("[rounds]", "[adapter]\nlayers = [2, 2]\n[rounds]", r"distinct layer numbers from 0, not \[2, 2\]"),
        ("[rounds]", "[adapter]\nlayers = [-1]\n[rounds]", r"distinct layer numbers from 0, not \[-1\]"),
        ("[rounds]", "[training]\ncombine = 'sum'\n[rounds]", "'uncertainty', 'gradnorm', 'dwa' or 'pcgrad'"),
        ("[rounds]", "[training]\nsampling = 'some'\n[rounds]", "'all' or 'temperature'"),
    ],
)
def test_an_error_says_what_is_wrong(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in VALID
    with pytest.raises(ConfigError, match=said):
        load_federation(write(tmp_path, VALID.replace(old, new)))


@pytest.mark.parametrize("content", ["name = ", None])
def test_a_missing_or_broken_file_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "federation.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"federation\.toml"):
        load_federation(path)


def test_the_digest_ignores_form_and_sees_meaning(tmp_path: Path) -> None:
    plain = load_federation(write(tmp_path, VALID)).digest
    explicit = load_federation(
        write(tmp_path, "# a comment\nversion = 1\n" + VALID + "\n[wire]\nup = 'float16'\n")
    ).digest
    changed = load_federation(write(tmp_path, VALID.replace('["a", "b"]', '["b", "a"]'))).digest
    weighty = load_federation(write(tmp_path, VALID.replace("[rounds]", "weight = 2.0\n[rounds]"))).digest
    assert plain == explicit
    assert plain != weighty
    assert plain != changed


def test_a_later_key_with_its_default_leaves_the_agreement_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that an institution with the release before, which does not know the key, has approved the same file."""
    file = write(tmp_path, VALID)
    whole = load_federation(file).digest
    known = agreement.LATER
    monkeypatch.setattr(agreement, "LATER", (*known, "rounds.late", "privacy.epsilon", "personal.keep"))
    plain = load_federation(file)
    assert plain.digest != whole
    assert "late" not in tomllib.loads(federation_toml(plain))["rounds"]
    assert load_federation(write(tmp_path, federation_toml(plain))).digest == plain.digest
    late = load_federation(write(tmp_path, VALID.replace("[rounds]", "[rounds]\nlate = true")))
    assert late.digest != plain.digest
    assert tomllib.loads(federation_toml(late))["rounds"]["late"] is True
    monkeypatch.setattr(agreement, "LATER", known)
    assert load_federation(write(tmp_path, VALID)).digest == whole


def test_a_table_that_came_later_is_in_the_digest_where_it_is_given(tmp_path: Path) -> None:
    plain = load_federation(write(tmp_path, VALID))
    asking = load_federation(write(tmp_path, f"{VALID}\n[release]\nmin_worst_score = 0.5\n"))
    assert "release" not in federation_toml(plain)
    assert asking.digest != plain.digest
    assert load_federation(write(tmp_path, federation_toml(asking))).digest == asking.digest


def test_a_preset_of_layers_is_only_another_form(tmp_path: Path) -> None:
    digests = [
        load_federation(write(tmp_path, VALID + f"\n[adapter]\ntarget_modules = {modules}\n")).digest
        for modules in ('"query,value"', '["query", "value"]', '"all-linear"', '["query", "key", "value", "dense"]')
    ]
    assert digests[0] == digests[1] != digests[2] == digests[3]


def test_it_is_frozen(tiny_federation: Callable[..., Federation]) -> None:
    federation: Any = tiny_federation()
    with pytest.raises(ValueError, match="frozen"):
        federation.seed = 3


THREE = VALID.replace('["hospital", "bank"]', '["hospital", "bank", "clinic"]').replace("quorum = 1", "quorum = 3")


KEYS = public_keys(["hospital", "bank", "clinic", "insurer"])


def secure(table: str, keys: Mapping[str, str] = KEYS, *names: str) -> str:
    """The tables of secure aggregation, with the keys of those named."""
    lines = "".join(f'{name} = "{keys[name]}"\n' for name in names or ("hospital", "bank", "clinic"))
    return f"\n[secure_aggregation]\n{table}\n[secure_aggregation.keys]\n{lines}"


@pytest.mark.parametrize(
    ("text", "table", "said"),
    [
        (VALID, "threshold = 2", r"at least 3, .* not 2; .*rounds.quorum must be at least the threshold 2, not 1"),
        (THREE, "threshold = 1", "secure_aggregation.threshold"),
        (THREE, "threshold = 2", "more than two thirds of the 3 institutions, not 2"),
        (THREE.replace("quorum = 3", "quorum = 2"), "threshold = 3", "at least the threshold 3, not 2"),
        (THREE.replace('"clinic"', '"clinic", "insurer"'), "threshold = 3", r"one public .* differs in \['insurer'\]"),
        (
            THREE.replace("[rounds]", "[rounds]\nmax_share = 0.3"),
            "threshold = 3",
            "at least 1 / threshold, so that",
        ),
        (THREE, "threshold = 3\nclip = 1e12\nfraction_bits = 40", "fit 64 bits"),
    ],
)
def test_what_secure_aggregation_cannot_work_with(tmp_path: Path, text: str, table: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_federation(write(tmp_path, text + secure(table)))


def test_node_keys_are_part_of_the_agreement(tmp_path: Path) -> None:
    plain = load_federation(write(tmp_path, THREE + secure("threshold = 3")))
    commented = load_federation(
        write(tmp_path, THREE + secure("threshold = 3", {name: f"{key} me@home" for name, key in KEYS.items()}))
    )
    assert plain.digest == commented.digest  # one key is one text
    other = load_federation(write(tmp_path, THREE + secure("threshold = 3", KEYS | {"bank": KEYS["insurer"]})))
    assert plain.digest != other.digest
    with pytest.raises(ConfigError, match="but hospital and bank have the same"):
        load_federation(write(tmp_path, THREE + secure("threshold = 3", KEYS | {"bank": KEYS["hospital"]})))
    with pytest.raises(ConfigError, match=r"expected a public key on one line, 'ecdsa-sha2-nistp384"):
        load_federation(write(tmp_path, THREE + secure("threshold = 3", KEYS | {"bank": "nonsense"})))
    with pytest.raises(ConfigError, match="collegium server enrol"):
        load_federation(write(tmp_path, f"{THREE}\n[secure_aggregation]\nthreshold = 3\n"))


def test_secure_aggregation_refuses_methods_that_need_single_updates(tmp_path: Path) -> None:
    text = THREE + secure("threshold = 3")
    assert load_federation(write(tmp_path, text)).secure_aggregation is not None
    with pytest.raises(ConfigError, match="not 'fedex': the others need single updates"):
        load_federation(write(tmp_path, text.replace("[rounds]", '[rounds]\nmethod = "fedex"')))


PRIVATE: dict[str, Any] = {
    "privacy": {"epsilon": 3.0},
    "training": {"weight_decay": 0.0},
    "rounds": {"weighting": "equal"},
}


def test_privacy_needs_what_looks_at_no_record(tiny_federation: Callable[..., Federation]) -> None:
    assert tiny_federation(**PRIVATE).privacy == Privacy(epsilon=3.0)
    training = {"combine": "dwa", "sampling": "temperature", "adversarial_epsilon": 0.1, "weight_decay": 0.01}
    tasks = {"next": {"type": "next-sentence-prediction"}}
    with pytest.raises(ValidationError) as error:
        tiny_federation(privacy={"epsilon": 3.0}, training=training, rounds={"patience": 2}, tasks=tasks)
    for key in (*training, "weighting", "patience", "tasks.next"):
        assert key in str(error.value), key
    tiny_federation(**PRIVATE, tasks={"next": {"type": "next-sentence-prediction", "strangers": "document"}})


def test_under_privacy_there_is_no_dropout(tiny_federation: Callable[..., Federation]) -> None:
    """Left out, written as 0, and given as an object are one agreement; anything else is refused."""
    left_out, zero = tiny_federation(**PRIVATE), {"weight_decay": 0.0, "head_dropout": 0.0}
    assert left_out.training.head_dropout == 0.0
    assert tiny_federation(**PRIVATE | {"training": zero}).digest == left_out.digest
    values = left_out.model_dump(exclude={"training"})
    assert Federation.model_validate(values | {"training": Training(weight_decay=0.0)}).training.head_dropout == 0.0
    assert Federation.model_validate(left_out.model_dump(mode="json")).digest == left_out.digest
    with pytest.raises(ValidationError, match=r"training\.head_dropout must be 0\.0"):
        tiny_federation(**PRIVATE | {"training": {"weight_decay": 0.0, "head_dropout": 0.1}})
    with pytest.raises(ValidationError, match=r"adapter\.dropout must be 0\.0"):
        tiny_federation(**PRIVATE, adapter={"dropout": 0.2})
    assert tiny_federation().training.head_dropout == 0.1
    assert tiny_federation(privacy=None).training.head_dropout == 0.1


def test_rounds_are_chosen_by_private_scores_only(tiny_federation: Callable[..., Federation]) -> None:
    tables = PRIVATE | {"rounds": PRIVATE.get("rounds", {}) | {"patience": 2}}
    with pytest.raises(ValidationError, match=r"rounds.patience must be 0, not 2, .*evaluation_epsilon"):
        tiny_federation(**tables)
    agreed = {"privacy": {"epsilon": 3.0, "evaluation_epsilon": 1.0}}
    assert tiny_federation(**tables | agreed).rounds.patience == 2
    alone = tiny_federation(**tables | agreed).model_dump() | {"tasks": {"alike": {"type": "sentence-similarity"}}}
    with pytest.raises(ValidationError, match="must hold one whose scores are made of counts"):
        Federation.model_validate(alone)


@pytest.mark.parametrize("given", [{}, {"epsilon": 3.0, "noise_multiplier": 1.0}])
def test_the_noise_is_given_once(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="either epsilon or noise_multiplier"):
        Privacy.model_validate(given)


@pytest.mark.parametrize(
    ("method", "table", "said"),
    [
        (
            "ffa",
            'keep = ["B"]',
            r"one of \['fedavg', 'fedsa', 'fedrot'\], not 'ffa': .* train no A",
        ),
        ("fedsvd", 'keep = ["B", "heads"]', "not 'fedsvd': .* train no A"),
        ("rolora", 'keep = ["B"]', "not 'rolora': .* train no A"),
        ("fed-sb", 'keep = ["B"]', "not 'fed-sb': .* train no A"),
        ("fedex", 'keep = ["B"]', "not 'fedex': .*need the products of A and B"),
        ("flora", 'keep = ["B"]', "not 'flora': .*need the products of A and B"),
        ("flexlora", 'keep = ["B"]', "not 'flexlora': .*need the products of A and B"),
        ("auto", 'keep = ["B"]', "not 'fedex': .*need the products of A and B"),
        ("fedavg", 'keep = ["A"]', r"personal\.keep\.0.*'B' or 'heads', not 'A'"),
        ("fedavg", "fine_tune_epochs = -1", "personal.fine_tune_epochs"),
    ],
)
def test_what_cannot_stay_at_home(tmp_path: Path, method: str, table: str, said: str) -> None:
    text = VALID.replace("[rounds]", f'[rounds]\nmethod = "{method}"')
    with pytest.raises(ConfigError, match=said):
        load_federation(write(tmp_path, f"{text}\n[personal]\n{table}\n"))


def test_a_fine_tune_is_not_accounted_for(tiny_federation: Callable[..., Federation]) -> None:
    private = {"privacy": {"epsilon": 3.0}, "training": {"weight_decay": 0.0}, "rounds": {"weighting": "equal"}}
    assert tiny_federation(**private, personal={"keep": ["heads"]}).method.keeps == ("heads",)
    with pytest.raises(ValueError, match=r"with \[privacy\], personal.fine_tune_epochs must be 0"):
        tiny_federation(**private, personal={"fine_tune_epochs": 1})


def test_the_methods_parts_and_the_files_stay_at_home_together(tiny_federation: Callable[..., Federation]) -> None:
    assert tiny_federation().method.keeps == ()
    assert tiny_federation(rounds={"method": "fedsa"}).method.keeps == ("B", "heads")
    assert tiny_federation(rounds={"method": "fedsa"}, personal={"keep": ["heads"]}).method.keeps == ("B", "heads")
    assert tiny_federation(personal={"keep": ["heads"]}).method.keeps == ("heads",)
    assert tiny_federation(personal={"fine_tune_epochs": 2}).fine_tunes == 2
