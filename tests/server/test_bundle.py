import io
import zipfile
from pathlib import Path

from flwr.common.config import get_fab_config, get_metadata_from_config, validate_config
from flwr.supercore.object_ref import validate

from server.bundle import RUN_KEY, pointer_bundle

MEMBERS = {"pyproject.toml", "collegium_serverapp.py", "collegium_clientapp.py"}


def unpacked(folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(pointer_bundle())) as archive:
        archive.extractall(folder)
    return folder


def test_the_bundle_is_three_files_and_flowers_list() -> None:
    with zipfile.ZipFile(io.BytesIO(pointer_bundle())) as archive:
        assert set(archive.namelist()) == MEMBERS | {".info/CONTENT"}


def test_no_name_hides_the_installed_packages() -> None:
    roots = {name.split("/")[0].removesuffix(".py") for name in MEMBERS}
    assert not roots & {"server", "client", "shared", "simulations"}


def test_the_bundle_is_the_same_at_every_call() -> None:
    assert pointer_bundle() == pointer_bundle()


def test_flower_accepts_the_bundle(tmp_path: Path) -> None:
    config = get_fab_config(pointer_bundle())
    assert config["tool"]["flwr"]["app"]["config"] == {RUN_KEY: ""}
    assert get_metadata_from_config(config) == ("collegium/collegium-pointer", "1.0.0")
    folder = unpacked(tmp_path)
    assert validate_config(config, check_module=True, project_dir=folder)[:2] == (True, [])
    for component in config["tool"]["flwr"]["app"]["components"].values():
        assert validate(component, check_module=True, project_dir=folder) == (True, None)


def test_the_modules_import_the_installed_apps(tmp_path: Path) -> None:
    folder = unpacked(tmp_path)
    for side in ("server", "client"):
        text = (folder / f"collegium_{side}app.py").read_text()
        assert f"from {side}.app import app as installed" in text
