"""Who is trained on, held out and left out: each owner by itself."""

import random
import stat
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.holdout import FILE, KEY_BYTES, check_limit, choose, find_key, key_of_seed, open_key, write_key
from shared.errors import ConfigError, DataError, StoreError

Record = tuple[str, int]
"""An owner, and the number of its record."""
KEY = key_of_seed(0)
LIMITS = st.one_of(st.none(), st.floats(0.05, 0.95))


def sides(records: list[Record], limit: float | None, key: bytes = KEY) -> dict[Record, str]:
    """On which side each record is; those that are left out are on none."""
    try:
        splits = choose({"train": records}, limit, owner_of, key)
    except DataError:  # nobody is left to train on
        return {}
    return {record: split for split, held in splits.items() for record in held}


def owner_of(record: Record) -> str:
    return record[0]


@given(
    owners=st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=40, unique=True),
    new=st.text(min_size=4, max_size=5),
    limit=LIMITS,
    key=st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES),
    shuffled=st.randoms(use_true_random=False),
)
def test_whoever_comes_moves_nobody(
    owners: list[str], new: str, limit: float | None, key: bytes, shuffled: random.Random
) -> None:
    records = [(owner, number) for owner in owners for number in range(1 + len(owner))]
    before = sides(records, limit, key)
    more = [*records, (new, 0), (new, 1), (owners[0], 99)]
    shuffled.shuffle(more)
    after = sides(more, limit, key)
    if before:
        assert {record: side for record, side in after.items() if record in set(records)} == before
    for owner in {*owners, new}:
        assert len({after.get(record) for record in more if record[0] == owner}) == 1, "an owner on two sides"


def test_about_a_tenth_of_the_owners_is_held_out_and_a_share_is_about_that_share() -> None:
    records = [(f"owner {number}", visit) for number in range(5000) for visit in (1, 2)]
    assert 0.085 < Counter(sides(records, None).values())["validation"] / 10_000 < 0.115
    found = Counter(sides(records, 0.3).values())
    assert 0.28 < found.total() / 10_000 < 0.32
    assert 0.07 < found["validation"] / found.total() < 0.13, "the two coins are each other's business"


def test_a_number_of_records_is_kept_in_their_order() -> None:
    records = [(f"owner {number}", 0) for number in range(60)]
    splits = choose({"train": records, "validation": records[:5]}, 20, owner_of, KEY)
    assert splits["train"] == sorted(splits["train"], key=records.index)
    assert len(splits["train"]) == 20
    assert splits["validation"] == records[:5]
    pairs = [(owner, visit) for owner, _ in records for visit in (1, 2)]
    kept = choose({"train": pairs, "test": pairs}, 20, owner_of, KEY)
    assert Counter(owner for owner, _ in kept["test"]).most_common()[-1][1] == 2, "owners are kept whole"


def test_where_a_file_is_named_nobody_is_held_out() -> None:
    records = [(f"owner {number}", 0) for number in range(60)]
    assert choose({"train": records, "validation": [("x", 0)]}, None, owner_of, KEY)["train"] == records


def test_keys_and_seeds_draw_different_coins() -> None:
    records = [(f"owner {number}", 0) for number in range(200)]
    assert len({tuple(sides(records, None, key_of_seed(seed)).items()) for seed in range(8)}) == 8
    assert sides(records, None, key_of_seed(7)) == sides(records, None, key_of_seed(7))


def test_when_nobody_is_left_to_train_on_it_says_so() -> None:
    records = [(f"owner {number}", 0) for number in range(60)]
    held_out = choose({"train": records}, None, owner_of, KEY)["validation"]
    with pytest.raises(DataError, match=f"all {len(held_out)} are held out or left out"):
        choose({"train": held_out}, None, owner_of, KEY)
    assert choose({"train": []}, None, owner_of, KEY) == {"train": []}, "bad rows alone are said elsewhere"


@pytest.mark.parametrize("limit", [1, 5, 300])
def test_under_privacy_a_number_is_refused(limit: int) -> None:
    check_limit("notes", None)
    check_limit("notes", 0.99)
    with pytest.raises(ConfigError, match=rf"data\.notes\.limit as a share below 1 .* it is {limit}"):
        check_limit("notes", limit)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    assert find_key(state) is None
    assert not state.exists()
    key = open_key(state)
    assert len(set(key)) > 1
    assert len(key) == KEY_BYTES
    assert stat.S_IMODE((state / FILE).stat().st_mode) == 0o600
    assert open_key(state) == find_key(state) == key
    assert [file.name for file in state.iterdir()] == [FILE]
    assert open_key(tmp_path / "other") != key


def test_of_two_processes_that_make_it_one_wins(tmp_path: Path) -> None:
    first = open_key(tmp_path)
    content = (tmp_path / FILE).read_bytes()
    write_key(tmp_path, bytes(KEY_BYTES))
    assert (tmp_path / FILE).read_bytes() == content == first
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33)])
def test_a_broken_key_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    write_key(tmp_path, content)
    with pytest.raises(StoreError, match=rf"key of 32 bytes in .*{FILE}, but it has {len(content)}"):
        open_key(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    open_key(tmp_path)
    (tmp_path / FILE).chmod(0o640)
    with pytest.raises(ConfigError, match="run `chmod 600"):
        open_key(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StoreError, match="look after the folder's rights"):
        open_key(tmp_path / "state")
