"""The store of objects behaves as Flower's own, whatever is asked of it."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict

from server.door.objects import Objects
from shared.flower.messages import ObjectTree, get_all_nested_objects, get_object_tree
from shared.flower.store import NoObjectInStoreError, SqlLinkState, SqlObjectStore

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")  # Flower's migrations


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Objects, SqlObjectStore]]:
    """Ours and Flower's, each over a database of its own."""
    made = []
    for name in ("ours", "flowers"):
        store = SqlObjectStore(str(tmp_path_factory.mktemp("objects") / name))
        store.initialize()
        made.append(store)
    yield Objects.of(made[0]), made[1]
    for store in made:
        assert store._engine is not None
        store._engine.dispose()


@pytest.fixture
def stores(databases: tuple[Objects, SqlObjectStore]) -> tuple[Objects, SqlObjectStore]:
    """Both, empty."""
    for store in databases:
        store.clear()
    return databases


def record(*words: str) -> RecordDict:
    return RecordDict({word: ConfigRecord({"said": word}) for word in words})


def same(stores: tuple[Objects, SqlObjectStore], ask: Callable[[Any], Any]) -> Any:
    """What both stores answer, or what both refuse."""
    answers = []
    for store in stores:
        try:
            answers.append(ask(store))
        except (ValueError, NoObjectInStoreError) as error:
            answers.append(type(error))
    assert answers[0] == answers[1]
    return answers[0]


def ids(tree: ObjectTree) -> tuple[str, frozenset[Any]]:
    return tree.object_id, frozenset(map(ids, tree.children))


def test_whatever_comes_and_goes_both_hold_the_same(stores: tuple[Objects, SqlObjectStore]) -> None:
    chance = random.Random(7)
    known = [record(*chance.sample("abcdef", 3)) for _ in range(6)]
    for step in range(30):
        one = chance.choice(known)
        tree, objects = get_object_tree(one), {name: o.deflate() for name, o in get_all_nested_objects(one).items()}
        name, content = chance.choice(list(objects.items()))
        same(stores, lambda store, tree=tree, run=step % 2: sorted(store.preregister(run, tree)))  # type: ignore[misc]
        if chance.random() < 0.7:
            same(stores, lambda store, name=name, content=content: store.put(name, content))  # type: ignore[misc]
        if chance.random() < 0.5:
            same(stores, lambda store, name=name: store.delete(name))  # type: ignore[misc]
        for each in objects:
            same(stores, lambda store, each=each: store.get(each))  # type: ignore[misc]
            same(stores, lambda store, each=each: ids(store.get_object_tree(each)))  # type: ignore[misc]
        same(stores, len)
    for run in (0, 1):
        same(stores, lambda store, run=run: store.delete_objects_in_run(run))  # type: ignore[misc]
        same(stores, len)


@pytest.mark.parametrize(
    "tree",
    [
        ObjectTree(object_id="no hash"),
        ObjectTree(object_id="0" * 64, children=[ObjectTree(object_id="1" * 64)] * 2),
        ObjectTree(object_id="0" * 64, children=[ObjectTree(object_id="0" * 64)]),
        ObjectTree(
            object_id="0" * 64,
            children=[
                ObjectTree(object_id="1" * 64, children=[ObjectTree(object_id="2" * 64)]),
                ObjectTree(object_id="3" * 64, children=[ObjectTree(object_id="1" * 64)]),
            ],
        ),
    ],
    ids=["no hash", "twice", "in itself", "once with and once without"],
)
def test_what_flower_refuses_is_refused(stores: tuple[Objects, SqlObjectStore], tree: ObjectTree) -> None:
    assert same(stores, lambda store: store.preregister(1, tree)) is ValueError


def test_an_object_keeps_its_children(stores: tuple[Objects, SqlObjectStore]) -> None:
    one, two, three = ("0" * 64, "1" * 64, "2" * 64)
    same(stores, lambda store: store.preregister(1, ObjectTree(object_id=one, children=[ObjectTree(object_id=two)])))
    other = ObjectTree(object_id=one, children=[ObjectTree(object_id=three)])
    assert same(stores, lambda store: store.preregister(1, other)) is ValueError


def test_several_at_once(stores: tuple[Objects, SqlObjectStore]) -> None:
    ours, _ = stores
    tree, objects = get_object_tree(record("a", "b")), get_all_nested_objects(record("a", "b"))
    contents = {name: found.deflate() for name, found in objects.items()}
    first = next(iter(contents))
    assert set(ours.preregister(1, tree)) == set(contents)
    ours.put_all({first: contents[first], "0" * 64: contents[first]})
    assert ours.contents([*contents, "0" * 64], 10_000) == {name: contents[name] * (name == first) for name in contents}
    with pytest.raises(ValueError, match="object"):
        ours.put_all({first: b"no object of Flower's"})


def test_questions_about_a_message_read_no_whole_table(stores: tuple[Objects, SqlObjectStore]) -> None:
    ours, _ = stores
    assert isinstance(ours, SqlObjectStore)
    assert not isinstance(ours, SqlLinkState)
    for question in (
        "SELECT 1 FROM object_children WHERE child_id = 'a'",
        "SELECT 1 FROM run_objects WHERE object_id = 'a'",
        "SELECT 1 FROM message_ins WHERE dst_node_id = 1",
    ):
        plan = ours.query(f"EXPLAIN QUERY PLAN {question}")
        assert all("SCAN" not in row["detail"] for row in plan), plan
