from client.data.identity import hash_texts
from client.privacy.dataset import describe_dataset

A, B, C = (hash_texts([text]) for text in "abc")


def test_the_fingerprint_is_of_the_content_in_whatever_order() -> None:
    found = describe_dataset({"17": [A, B], "18": [C]}, "patient_id")
    assert found.owners == 2
    assert found == describe_dataset({"18": [C], "17": [B, A]}, "patient_id")
    others = [
        describe_dataset({"17": [A], "18": [B, C]}, "patient_id"),
        describe_dataset({"17": [A, B], "19": [C]}, "patient_id"),
        describe_dataset({"17": [A, B, B], "18": [C]}, "patient_id"),
        describe_dataset({"17": [A, B], "18": [C]}, "matter"),
        describe_dataset({"17": [A, B], "18": [C]}, None),
    ]
    assert len({found.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_owners_and_records_are_known_again() -> None:
    found = describe_dataset({"17": [A], "18": [B]}, "patient_id")
    assert len(found.marks) == 4
    assert len(found.marks & describe_dataset({"17": [C]}, "patient_id").marks) == 1
    assert len(found.marks & describe_dataset({"17": [C]}, "person").marks) == 1, "a renamed column"
    assert found.marks & describe_dataset({"0": [A], "1": [B]}, None).marks == {A, B}, "without an owner column"
    assert not found.marks & describe_dataset({"19": [C]}, "patient_id").marks


def test_without_owner_column_a_record_is_known_by_its_content_alone() -> None:
    assert describe_dataset({"0": [A], "1": [B]}, None) == describe_dataset({"x": [B], "y": [A]}, None)
    assert describe_dataset({"0": [A], "1": [A]}, None).owners == 2


def test_no_key_and_no_text_is_kept() -> None:
    assert "Smith" not in repr(describe_dataset({"Smith": [hash_texts(["Smith"])]}, "name"))
