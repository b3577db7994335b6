"""A signed bundle: nothing in it can be changed, added, renamed or taken away unseen, nor signed by somebody else."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from collegium.__main__ import app
from shared.bundle import FEDERATION_FILE, README_FILE, THRESHOLDS_FILE, seal, verify_bundle, write_bundle
from shared.bundle import manifest as manifests
from shared.bundle.consent import Consent, consent_text, read_consent, sign_consent
from shared.bundle.keys import read_release_key, release_line
from shared.bundle.manifest import MANIFEST_FILE, SIGNATURE_FILE, Manifest, consent_file, release_of
from shared.errors import BundleError, ConfigError
from shared.federation import Federation

LAYER = "base_model.model.encoder.layer.0.attention.self.query"
KEY, OTHER_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
LINE = release_line(KEY.public_key())
HOSPITAL = ec.generate_private_key(ec.SECP384R1())
Edit = Callable[[Path], Any]


def consent(release: str, federation: Federation, name: str = "hospital", **changes: Any) -> Consent:
    about = {"release": release, "agreement": federation.digest, "licences": {"clauses": "CC-BY-4.0"}} | changes
    return sign_consent(HOSPITAL, name=name, time="2026-11-29T12:00:00+00:00", **about)


def write(folder: Path, federation: Federation, scale: float = 1.0) -> Path:
    """A bundle of a few numbers, signed, with the hospital's consent."""
    factors = {"A": np.full((4, 32), scale, np.float32), "B": np.ones((32, 4), np.float32)}
    arrays = {f"adapter/{LAYER}.lora_{name}.weight": array for name, array in factors.items()}

    def finish(building: Path) -> None:
        file = building / consent_file("hospital")
        file.parent.mkdir()
        file.write_bytes(consent_text(consent(release_of(building), federation)))
        seal(building, KEY)

    told: dict[str, Any] = {"settings": {}, "tasks": []}
    return write_bundle(folder, federation, arrays, {}, metrics=told, readme="# It", finish=finish)


@pytest.fixture(scope="module")
def federation(tiny_federation: Callable[..., Federation]) -> Federation:
    return tiny_federation()


@pytest.fixture(scope="module")
def released(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("release") / "bundle", federation)


@pytest.fixture
def bundle(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "bundle"))


def resign(folder: Path, key: Ed25519PrivateKey = KEY, **changes: Any) -> None:
    """Sign another manifest: what only whoever has the key can do."""
    known = json.loads((folder / MANIFEST_FILE).read_text()) | changes
    text = json.dumps(known | {"key": release_line(key.public_key())}).encode()
    (folder / MANIFEST_FILE).write_bytes(text)
    (folder / SIGNATURE_FILE).write_text(key.sign(manifests._PURPOSE + text).hex() + "\n")


def test_what_was_released_is_verified(released: Path, federation: Federation) -> None:
    found = verify_bundle(released, LINE)
    assert found.manifest.agreement == found.federation.digest == federation.digest
    assert found.manifest.release == release_of(released)
    assert [(one.name, one.licences) for one in found.consents] == [("hospital", {"clauses": "CC-BY-4.0"})]
    lying = {path.relative_to(released).as_posix() for path in released.rglob("*") if path.is_file()}
    assert found.manifest.files.keys() == lying - {"manifest.json", "manifest.sig"}


def test_each_of_a_thousand_changed_bytes_is_found(bundle: Path) -> None:
    drawn = random.Random(19)
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    seen = set()
    for _ in range(1000):
        file = drawn.choice(files)
        whole = file.read_bytes()
        place = drawn.randrange(len(whole))
        changed = bytes([whole[place] ^ drawn.randrange(1, 256)])
        file.write_bytes(whole[:place] + changed + whole[place + 1 :])
        with pytest.raises(BundleError, match=r"as it was signed|the manifest of a bundle"):
            verify_bundle(bundle)
        file.write_bytes(whole)
        seen.add(file)
    assert seen == set(files)
    verify_bundle(bundle, LINE)


def swap(folder: Path) -> None:
    one, other = (folder / README_FILE).read_bytes(), (folder / THRESHOLDS_FILE).read_bytes()
    (folder / README_FILE).write_bytes(other)
    (folder / THRESHOLDS_FILE).write_bytes(one)


def link(name: str | Path) -> Edit:
    """Moves something out of the bundle, with a link in its place: the very same bytes."""

    def edit(folder: Path) -> None:
        moved = (folder / name).rename(folder.parent / "moved")
        (folder / name).symlink_to(moved)

    return edit


def pipe(folder: Path) -> None:
    (folder / README_FILE).unlink()
    os.mkfifo(folder / README_FILE)


CHANGES: dict[str, tuple[Edit, str]] = {
    "a file more": (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), r"added: \['pytorch_model.bin'\]"),
    "a hidden file": (lambda f: (f / "adapter" / ".hidden").write_bytes(b""), r"added: \['adapter/.hidden'\]"),
    "a file less": (lambda f: (f / README_FILE).unlink(), r"missing: \['README.md'\]"),
    "a renamed file": (
        lambda f: (f / README_FILE).rename(f / "readme.md"),
        r"missing: \['README.md'\]; added: \['readme.md'\]",
    ),
    "two files swapped": (swap, r"changed: \['README.md', 'thresholds.json'\]"),
    "a consent stripped": (lambda f: (f / "consents" / "hospital.json").unlink(), "missing: .*hospital"),
    "all consents stripped": (lambda f: shutil.rmtree(f / "consents"), "missing: .*hospital"),
    "an empty folder": (lambda f: (f / "code").mkdir(), r"not a plain file: \['code'\]"),
    "a linked file": (link(README_FILE), r"missing: \['README.md'\]; not a plain file: \['README.md'\]"),
    "a linked folder": (link("adapter"), r"not a plain file: \['adapter'\]"),
    "a linked manifest": (link(MANIFEST_FILE), "lacks manifest.json"),
    "a pipe": (pipe, "not a plain file"),
    "no signature": (lambda f: (f / SIGNATURE_FILE).unlink(), "lacks manifest.json or manifest.sig"),
    "no manifest": (lambda f: (f / MANIFEST_FILE).unlink(), "lacks manifest.json or manifest.sig"),
    "the signature in capitals": (
        lambda f: (f / SIGNATURE_FILE).write_text((f / SIGNATURE_FILE).read_text().upper()),
        "the signature does not fit",
    ),
    "a byte after the signature": (
        lambda f: (f / SIGNATURE_FILE).write_text((f / SIGNATURE_FILE).read_text() + "\n"),
        "the signature does not fit",
    ),
    "another's signature": (lambda f: resign(f, OTHER_KEY), "to be signed by ssh-ed25519"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_not_as_it_was_signed_is_refused_and_named(bundle: Path, kind: str) -> None:
    edit, told = CHANGES[kind]
    edit(bundle)
    with pytest.raises(BundleError, match=told):
        verify_bundle(bundle, LINE)


@pytest.mark.parametrize("path", ["../README.md", "/etc/passwd", "adapter/../README.md", ".hidden", "a//b", "a\\b", ""])
def test_a_manifest_that_leads_elsewhere_is_none_even_if_it_is_signed(bundle: Path, path: str) -> None:
    files = json.loads((bundle / MANIFEST_FILE).read_text())["files"]
    resign(bundle, files=files | {path: files["README.md"]})
    with pytest.raises(BundleError, match="the manifest of a bundle"):
        verify_bundle(bundle)


def test_a_swapped_federation_file_is_found_even_if_it_is_signed(
    bundle: Path, tiny_federation: Callable[..., Federation], tmp_path: Path
) -> None:
    other = write(tmp_path / "other", tiny_federation(seed=14))
    shutil.copy(other / FEDERATION_FILE, bundle / FEDERATION_FILE)
    with pytest.raises(BundleError, match=r"changed: \['federation.toml'\]"):
        verify_bundle(bundle)
    seal(bundle, KEY)  # by the coordinator itself: the hospital has consented to something else
    with pytest.raises(BundleError, match="Expected hospital's consent to release"):
        verify_bundle(bundle)
    resign(bundle, release="0" * 64)
    with pytest.raises(BundleError, match="its own release"):
        verify_bundle(bundle)


def test_a_consent_is_for_one_release_and_by_one_institution(
    bundle: Path, federation: Federation, tmp_path: Path
) -> None:
    file, release = bundle / consent_file("hospital"), release_of(bundle)

    def told(one: Consent, name: str = "hospital") -> str:
        file.unlink(missing_ok=True)
        place = bundle / consent_file(name)
        place.write_bytes(consent_text(one))
        seal(bundle, KEY)
        with pytest.raises(BundleError) as caught:
            verify_bundle(bundle)
        place.unlink()
        return str(caught.value)

    replayed = read_consent(write(tmp_path / "other", federation, scale=2.0) / consent_file("hospital"))
    assert "Expected hospital's consent to release" in told(replayed)
    assert "Expected hospital's consent to release" in told(consent(release, federation, agreement="0" * 64))
    assert "consents of ['hospital', 'law_firm'], but bank's" in told(consent(release, federation, "bank"), "bank")
    assert "in consents/hospital.json, not" in told(consent(release, federation), "law_firm")
    genuine = consent(release, federation)
    changes: list[dict[str, Any]] = [
        {"name": "law_firm"},
        {"licences": {}},
        {"time": "2026-11-30T12:00:00+00:00"},
        {"signature": ""},
    ]
    for change in changes:
        forged = genuine.model_copy(update=change)
        assert "the signature does not fit" in told(forged, forged.name)


def test_where_the_agreement_names_keys_a_consent_is_by_that_key(
    tiny_federation: Callable[..., Federation], tmp_path: Path
) -> None:
    secure = tiny_federation(
        rounds={"quorum": 3, "institutions": ["hospital", "law_firm", "bank"]}, secure_aggregation={"threshold": 3}
    )
    with pytest.raises(BundleError, match="by the key that the agreement names"):
        verify_bundle(write(tmp_path / "bundle", secure))


def test_the_card_is_no_part_of_the_release(bundle: Path) -> None:
    before = release_of(bundle)
    (bundle / README_FILE).write_text("Marked.")
    assert release_of(bundle) == before == seal(bundle, KEY).release
    assert [one.name for one in verify_bundle(bundle, LINE).consents] == ["hospital"]
    (bundle / THRESHOLDS_FILE).write_text('{"notes_qa": {}}')
    assert release_of(bundle) != before


def test_nothing_but_plain_files_is_sealed(bundle: Path) -> None:
    (bundle / "more").symlink_to("/etc")
    with pytest.raises(BundleError, match="more"):
        seal(bundle, KEY)
    (bundle / "more").unlink()
    (bundle / "two words").touch()
    with pytest.raises(BundleError, match="names of letters"):
        seal(bundle, KEY)


def test_the_verb_says_who_has_signed_and_fails_with_one_sentence(bundle: Path, tmp_path: Path) -> None:
    mine, other = tmp_path / "release.pub", tmp_path / "other.pub"
    mine.write_text(f"{LINE} coordinator@example\n")
    other.write_text(release_line(OTHER_KEY.public_key()))
    runner = CliRunner()
    done = runner.invoke(app, ["verify", str(bundle)])
    assert "hospital consents, by its key SHA256:" in done.stdout
    assert "compare it with what the coordinator says" in done.stdout
    assert "which is the one given" in runner.invoke(app, ["verify", str(bundle), "--key", str(mine)]).stdout
    told = json.loads(runner.invoke(app, ["verify", str(bundle), "--key", str(mine), "--json"]).stdout)
    assert Manifest.model_validate({key: told[key] for key in Manifest.model_fields}).release == release_of(bundle)
    assert isinstance(runner.invoke(app, ["verify", str(bundle), "--key", str(other)]).exception, BundleError)
    assert runner.invoke(app, ["card", str(bundle), "--key", str(mine)]).stdout.startswith("# It\n")
    (bundle / README_FILE).write_text("# Another")
    for verb in (["card", str(bundle)], ["merge", str(bundle), "--out", str(tmp_path / "merged")]):
        assert isinstance(runner.invoke(app, verb).exception, BundleError)
    for name in (MANIFEST_FILE, SIGNATURE_FILE):
        (bundle / name).unlink()
    assert "is not signed: anybody may have written it" in runner.invoke(app, ["card", str(bundle)]).stderr
    stripped = runner.invoke(app, ["card", str(bundle), "--key", str(mine)])
    assert isinstance(stripped.exception, BundleError), "who asks for a key gets no bundle without"
    with pytest.raises(ConfigError, match="Expected the coordinator's public key"):
        read_release_key(bundle / README_FILE)
