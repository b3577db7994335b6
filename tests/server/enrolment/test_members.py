"""Taking an institution off the agreement leaves everything else of the file as it is."""

import tomllib
from pathlib import Path

import pytest

from server.agreement import latest_text, naming, offered, propose_text, withdraw
from server.enrolment.members import invite, remove
from server.home import ServerHome, init_home
from server.template import federation_template
from shared.errors import ConfigError, EnrolmentError
from shared.federation import Federation
from simulations.nodekeys import public_keys

NAMES = ["hospital", "bank", "law_firm", "law"]


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    text = federation_template(name="trio", institutions=NAMES, backbone="minilm-l6")
    return init_home(tmp_path / "c", hosts=["localhost"], public_port=1, operator_port=2, federation=text)


def offer(home: ServerHome) -> Federation:
    found = offered(home)
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_agreement_without_a_name_is_offered_and_comments_stay(home: ServerHome, name: str) -> None:
    text = home.federation_file.read_text()
    digest, _ = remove(home, name)
    after = offer(home)
    assert after.rounds.institutions == tuple(each for each in NAMES if each != name)
    assert after.rounds.quorum == 3
    assert after.digest == digest
    assert home.federation_file.read_text() == text, "it is in force when all others have approved it"
    changed = [(a, b) for a, b in zip(text.splitlines(), latest_text(home).splitlines(), strict=True) if a != b]
    assert len(changed) == 1


def test_the_quorum_shrinks_where_it_has_to_and_what_is_offered_is_the_start(home: ServerHome) -> None:
    for left, name in ((3, "bank"), (2, "law"), (1, "hospital")):
        remove(home, name)
        assert offer(home).rounds.quorum == left
    with pytest.raises(ConfigError, match="rounds"):
        remove(home, "law_firm")
    with pytest.raises(EnrolmentError, match="rounds"):
        remove(home, "bank")
    assert offer(home).rounds.institutions == ("law_firm",)


def test_a_key_of_secure_aggregation_goes_too(home: ServerHome) -> None:
    keys = "".join(f'{name} = "{key}"\n' for name, key in public_keys(NAMES).items())
    text = home.federation_file.read_text().replace("quorum = 3", "quorum = 4")
    home.federation_file.write_text(f"{text}\n[secure_aggregation]\nthreshold = 3\n[secure_aggregation.keys]\n{keys}")
    remove(home, "law")
    agreed = offer(home).secure_aggregation
    assert agreed is not None
    assert list(agreed.keys) == ["hospital", "bank", "law_firm"]


def test_a_name_that_is_offered_alone_is_known(home: ServerHome) -> None:
    propose_text(home, home.federation_file.read_text().replace('"law"', '"law", "court"'))
    assert naming(home, "court")[0] == offer(home)
    assert naming(home, "law")[0].rounds.institutions == tuple(NAMES)
    with pytest.raises(EnrolmentError, match="stranger"):
        naming(home, "stranger")


def test_a_list_of_several_lines_keeps_its_form_and_odd_ones_are_left_to_a_human(home: ServerHome) -> None:
    text = home.federation_file.read_text()
    line = next(line for line in text.splitlines() if line.startswith("institutions"))
    home.federation_file.write_text(text.replace(line, "institutions = [\n  'hospital',\n  'bank',\n  'law',\n]"))
    remove(home, "bank")
    assert "institutions = [\n  'hospital',\n  'law',\n]" in latest_text(home)
    withdraw(home)
    values = tomllib.loads(text)["rounds"]
    odd = text.split("[rounds]")[0] + f"[rounds]\ncount = {values['count']}\n" + "quorum = 1\n"
    odd += '"institutions" = ["hospital", "bank"]\n'
    home.federation_file.write_text(odd)
    with pytest.raises(ConfigError, match="by hand"):
        remove(home, "bank")
    assert offered(home) is None


def test_without_an_enrolment_port_nobody_is_invited(home: ServerHome, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="enrolment_port = 8445"):
        invite(home, "bank", tmp_path / "bank.invitation", days=1)
