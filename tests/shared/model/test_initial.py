"""The state before the first round: drawn without torch, shaped and spread as torch and peft have it."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from shared.adapter import factor_of, tensors
from shared.codec import Arrays
from shared.errors import BackboneError, ConfigError
from shared.federation import Federation, federation_toml
from shared.federation.methods import METHODS
from shared.model.backbone import fingerprint, read_weight
from shared.model.initial import initial_state
from shared.model.lora import frozen, lora_layers
from shared.model.multitask import build_model
from simulations.attacks.stage import EVERY_TASK

Make = Callable[..., Federation]
ADAPTERS: Mapping[str, dict[str, Any]] = {
    "attention": {},
    "every linear layer": {"target_modules": ["query", "key", "value", "dense"]},
    "feed-forward of the upper layer": {"target_modules": ["dense"], "layers": "top-1"},
}


def is_drawn(state: Arrays, name: str) -> bool:
    """Whether an array is neither zeros nor ones."""
    return not np.isin(state[name], (0, 1)).all()


def unlike(one: Arrays, other: Arrays) -> list[str]:
    """Names of arrays that are not the same in both."""
    return [name for name, array in one.items() if name in other and not np.array_equal(array, other[name])]


@pytest.mark.parametrize(
    ("method", "adapter"),
    [
        *((method, "attention") for method in METHODS),
        *((one, name) for one in ("fedavg", "fed-sb") for name in ADAPTERS),
    ],
)
def test_a_model_has_these_arrays_and_begins_with_them(tiny_federation: Make, method: str, adapter: str) -> None:
    federation = tiny_federation(tasks=EVERY_TASK, adapter=ADAPTERS[adapter], rounds={"method": method})
    state, model = initial_state(federation), tensors(build_model(federation))
    assert list(state) == list(model)
    for name, parameter in model.items():
        assert state[name].dtype == np.float32
        assert state[name].shape == parameter.shape, name
        np.testing.assert_array_equal(state[name], parameter.detach().numpy(), err_msg=name)


def test_arrays_are_spread_as_torch_and_peft_spread_them(tiny_federation: Make) -> None:
    """Beside the same modules as they come from torch, for every array: what is drawn there is drawn here."""
    federation = tiny_federation(tasks=EVERY_TASK, adapter={"rank": 16})
    state, model = initial_state(federation), build_model(federation)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.reset_parameters()
    for layer in lora_layers(model.encoder).values():
        layer.reset_lora_parameters("default", init_lora_weights=True)  # type: ignore[no-untyped-call]
    drawn = 0
    for name, parameter in tensors(model).items():
        theirs, ours = parameter.detach().numpy(), state[name]
        if name.endswith("output.bias.weight"):
            assert not ours.any(), "a bias of a module of its own begins at zero: heads.vocabulary"
            continue
        if not is_drawn(state, name):
            np.testing.assert_array_equal(ours, theirs)
            continue
        drawn += 1
        inputs = ours.shape[1] if ours.ndim == 2 else state[name.replace(".bias", ".weight")].shape[1]
        for array in (ours, theirs):
            assert np.abs(array).max() <= inputs**-0.5 * (1 + 1e-6), name
        if ours.size > 500:
            np.testing.assert_allclose(ours.std() * inputs**0.5, 3**-0.5, rtol=0.1, err_msg=name)
            assert abs(ours.mean()) * inputs**0.5 < 0.1, name
    assert drawn > 30


def test_no_two_arrays_are_alike_and_none_depends_on_another(tiny_federation: Make) -> None:
    federation = tiny_federation(tasks=EVERY_TASK)
    state = initial_state(federation)
    drawn = [state[name] for name in state if is_drawn(state, name)]
    beginnings = {array.ravel()[:1].tobytes() for array in drawn}
    assert len(beginnings) == len(drawn)
    one = next(iter(EVERY_TASK))
    assert not unlike(state, initial_state(tiny_federation(tasks={one: EVERY_TASK[one]})))
    narrower = initial_state(tiny_federation(tasks=EVERY_TASK, adapter={"rank": 2}))
    assert all(factor_of(name) for name in unlike(state, narrower))
    other = initial_state(tiny_federation(tasks=EVERY_TASK, seed=14))
    assert {name for name in state if is_drawn(state, name)} == set(unlike(state, other))
    assert initial_state(tiny_federation(seed=-1))


def test_the_same_everywhere(tiny_federation: Make) -> None:
    """Institutions keep parts of it that are never sent: another NumPy, or release, must not draw others."""
    state = initial_state(tiny_federation())
    parts = ("layer.0.attention.self.query.lora_A", "head/notes_qa/", "head/clauses/linear.bias")
    drawn = {name: array for name, array in state.items() if any(part in name for part in parts)}
    digest = hashlib.sha256(b"".join(array.astype("<f4").tobytes() for array in drawn.values())).hexdigest()
    assert len(drawn) == 3
    assert digest == "8fa8036c9170251a9bd592136cbbf2464bdb6bf81cd2adef2df35b03139a0fc3"


def test_orthonormal_rows_point_anywhere(tiny_federation: Make) -> None:
    total = np.zeros(32)
    for seed in range(200):
        state = initial_state(tiny_federation(seed=seed, adapter={"rank": 4}, rounds={"method": "ffa"}))
        factors = [array for name, array in state.items() if factor_of(name) == "A" and array.shape[1] == 32]
        for factor in factors:
            np.testing.assert_allclose(factor @ factor.T, np.eye(4), atol=1e-6)
            total += factor[0] / len(factors)
    # Each coordinate has variance 1 / 32; LAPACK's own signs would leave the first negative, or positive, every time.
    assert np.abs(total).max() < 5 * (200 / 4 / 32) ** 0.5


def test_principal_directions_hold_the_most_of_the_weights(tiny_federation: Make) -> None:
    federation = tiny_federation(rounds={"method": "fed-sb"})
    state, model = initial_state(federation), build_model(federation)
    for name, layer in lora_layers(model.encoder).items():
        weight = frozen(layer).weight.detach().double()
        a, b, core = (torch.tensor(state[f"adapter/{name}.lora_{factor}.weight"]).double() for factor in "ABR")
        found = b.T @ weight @ a.T
        largest = torch.linalg.svdvals(weight)[:4]
        torch.testing.assert_close(found, torch.diag(largest), atol=1e-5, rtol=1e-5)
        assert not core.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_weights_are_read_as_torch_reads_them(tiny_bert: Path, tmp_path: Path, dtype: torch.dtype, prefix: str) -> None:
    weights = {f"{prefix}{name}": array.to(dtype) for name, array in load_file(tiny_bert / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors")
    for name in ("encoder.layer.1.output.dense.weight", "encoder.layer.0.attention.self.query.weight"):
        found = read_weight(tmp_path, name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, weights[f"{prefix}{name}"].float().numpy())
    with pytest.raises(BackboneError, match=r"Expected encoder\.nothing among the backbone's weights"):
        read_weight(tmp_path, "encoder.nothing")


def test_what_does_not_fit_is_told(tiny_federation: Make) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"adapter": {"target_modules": ["query", "gate"]}}, "must be among the backbone's linear layers"),
        ({"adapter": {"layers": "top-3"}}, "since the backbone has 2 layers"),
        ({"adapter": {"rank": 64}, "rounds": {"method": "ffa"}}, "must be at most 32 under this method"),
    )
    for tables, told in cases:
        for make in (initial_state, build_model):
            with pytest.raises(ConfigError, match=told):
                make(tiny_federation(**tables))
    for make in (initial_state, build_model):
        with pytest.raises(ConfigError, match="max_length must be at most 128"):
            make(over(tiny_federation(), max_length=129))
        with pytest.raises(BackboneError, match="with fingerprint 000000000000"):
            make(over(tiny_federation(), sha256="0" * 64))


def over(federation: Federation, **changes: Any) -> Federation:
    """The same with other words on its backbone."""
    return federation.model_copy(update={"backbone": federation.backbone.model_copy(update=changes)})


def test_a_size_that_the_configuration_lacks_is_as_in_bert_base(
    tiny_federation: Make, tiny_bert: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())

    def changed(**sizes: Any) -> Federation:
        (tmp_path / "config.json").write_text(json.dumps({key: sizes.get(key, old) for key, old in config.items()}))
        return over(tiny_federation(), name=str(tmp_path), sha256=fingerprint(tmp_path), max_length=512)

    wrong: tuple[dict[str, Any], ...] = ({"hidden_size": "32"}, {"num_hidden_layers": 0})
    for sizes in wrong:
        with pytest.raises(BackboneError, match=f"a number above 0 as {next(iter(sizes))} in config"):
            initial_state(changed(**sizes))
    del config["max_position_embeddings"]
    assert initial_state(changed())


def test_it_takes_no_torch(tiny_federation: Make, tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(federation_toml(tiny_federation(tasks=EVERY_TASK)), encoding="utf-8")
    code = (
        "import sys\nfrom pathlib import Path\nfrom shared.federation import load_federation\n"
        "from shared.model.initial import initial_state\n"
        f"state = initial_state(load_federation(Path({str(tmp_path / 'federation.toml')!r})))\n"
        "assert len(state) > 30\n"
        "print(sorted({'torch', 'transformers', 'peft'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
