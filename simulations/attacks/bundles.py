"""Whoever passes a released bundle on changes it, and hopes that its reader does not notice."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.bundle import FEDERATION_FILE, HEADS_FILE, README_FILE, release_of, seal, verify_bundle, write_bundle
from shared.bundle.consent import consent_text, sign_consent
from shared.bundle.keys import release_line
from shared.bundle.manifest import consent_file
from shared.errors import CollegiumError
from shared.federation import Federation, federation_toml
from simulations.attacks import Attack, Outcome
from simulations.attacks.stage import tiny_federation, write_tiny_bert

BYTES = 300
"""Random changes of one byte."""
LAYER = "adapter/base_model.model.encoder.layer.0.attention.self.query"
COORDINATOR, HOSPITAL = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())
CONSENT = consent_file("hospital")
Change = Callable[[Path], object]


def pass_on_another_bundle(folder: Path) -> Outcome:
    """Change a byte, a file, a signature, or the whole bundle; each time that `verify --key` takes it is a success."""
    (folder / "bert").mkdir()
    federation = tiny_federation(write_tiny_bert(folder / "bert"))
    released, other = (_release(folder / f"release-{scale}", federation, scale) for scale in (1, 2))
    verify_bundle(released, release_line(COORDINATOR.public_key()))
    tries = [*_bytes(released), *_changes(other, federation)]
    taken = 0
    for change in tries:
        bundle = Path(shutil.copytree(released, folder / "passed-on"))
        change(bundle)
        try:
            verify_bundle(bundle, release_line(COORDINATOR.public_key()))
            taken += 1
        except CollegiumError:
            pass
        shutil.rmtree(bundle)
    return Outcome(len(tries), taken)


def _release(folder: Path, federation: Federation, scale: int) -> Path:
    """A signed bundle of a few numbers, to which the hospital consents."""
    factors = {"A": np.full((4, 32), scale, np.float32), "B": np.ones((32, 4), np.float32)}
    arrays = {f"{LAYER}.lora_{name}.weight": array for name, array in factors.items()}

    def finish(building: Path) -> None:
        about = {"release": release_of(building), "agreement": federation.digest}
        (building / CONSENT).parent.mkdir()
        signed = sign_consent(HOSPITAL, name="hospital", licences={}, time="2026-11-29T12:00:00+00:00", **about)
        (building / CONSENT).write_bytes(consent_text(signed))
        seal(building, COORDINATOR)

    return write_bundle(
        folder, federation, arrays, {}, metrics={"settings": {}, "tasks": ()}, readme="# A release", finish=finish
    )


def _bytes(released: Path) -> Iterator[Change]:
    drawn = random.Random(13)
    files = sorted(path.relative_to(released) for path in released.rglob("*") if path.is_file())

    def change(file: Path, place: float, bits: int) -> Change:
        def edit(bundle: Path) -> None:
            content = bytearray((bundle / file).read_bytes())
            content[int(place * len(content))] ^= bits
            (bundle / file).write_bytes(content)

        return edit

    for _ in range(BYTES):
        yield change(drawn.choice(files), drawn.random(), drawn.randrange(1, 256))


def _changes(other: Path, federation: Federation) -> Iterator[Change]:
    changed = federation.model_copy(update={"seed": federation.seed + 1})
    mine = Ed25519PrivateKey.generate()

    def forge(bundle: Path) -> None:
        (bundle / FEDERATION_FILE).write_text(federation_toml(changed), encoding="utf-8")
        shutil.rmtree((bundle / CONSENT).parent)
        seal(bundle, mine)

    def link(bundle: Path) -> None:
        (bundle / README_FILE).rename(bundle.parent / "outside")
        (bundle / README_FILE).symlink_to(bundle.parent / "outside")

    def swap(name: Path) -> Change:
        return lambda bundle: shutil.copy(other / name, bundle / name)

    yield forge
    yield link
    yield lambda bundle: seal(bundle, mine)
    yield lambda bundle: (bundle / CONSENT).unlink()
    yield lambda bundle: shutil.rmtree((bundle / CONSENT).parent)
    yield lambda bundle: (bundle / HEADS_FILE).unlink()
    yield lambda bundle: (bundle / "pytorch_model.bin").write_bytes(b"code")
    yield lambda bundle: (bundle / "adapter" / ".hidden").touch()
    yield lambda bundle: (bundle / README_FILE).rename(bundle / "readme.md")
    for name in ("adapter/adapter_model.safetensors", CONSENT, "manifest.json", "manifest.sig"):
        yield swap(Path(name))


ATTACKS = (
    Attack(
        "a released bundle, changed, forged, stripped of a consent or given another's",
        "who passes a model on",
        "a bundle is as the coordinator and the institutions have signed it, or `collegium verify` says that it is not",
        pass_on_another_bundle,
    ),
)
