"""Flower's store of objects, with few statements for a message where Flower has several for each of its objects.

A message has seven objects, and a round of a thousand institutions fourteen thousand. What is stored, what is refused
and what is deleted with what is as Flower has it.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import BindParameter, bindparam, delete, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shared.flower.messages import ObjectTree, is_valid_sha256_hash, iterate_object_tree
from shared.flower.store import (
    NoObjectInStoreError,
    ObjectChild,
    RunObject,
    SqlObjectStore,
    StoredObject,
    UnexpectedObjectContentError,
    uint64_to_int64,
    validate_object_content,
)

_AMONG: BindParameter[list[str]] = bindparam("objects", expanding=True)
_THERE = select(StoredObject.object_id, StoredObject.is_available).where(StoredObject.object_id.in_(_AMONG))
_LINKS = select(ObjectChild.parent_id, ObjectChild.child_id).where(ObjectChild.parent_id.in_(_AMONG))
_ADD = insert(StoredObject).values(object_id=bindparam("name"), content=b"", is_available=0, ref_count=0)
_LINK = insert(ObjectChild)
_HELD = update(StoredObject).where(StoredObject.object_id == bindparam("name"))
_HOLD = _HELD.values(ref_count=StoredObject.ref_count + 1)
_LEAVE = _HELD.where(StoredObject.ref_count > 0).values(ref_count=StoredObject.ref_count - 1)
_FILL = _HELD.where(StoredObject.is_available == 0).values(content=bindparam("new"), is_available=1)
_OF_RUN = sqlite_insert(RunObject).on_conflict_do_nothing()
_FREE = select(StoredObject.object_id).where(StoredObject.object_id.in_(_AMONG), StoredObject.ref_count == 0)
_DELETE = delete(StoredObject).where(StoredObject.object_id.in_(_AMONG))
_CONTENTS = select(StoredObject.object_id, StoredObject.content).where(
    StoredObject.object_id.in_(_AMONG), func.length(StoredObject.content) <= bindparam("most")
)
_LINK_COLUMNS = select(ObjectChild.parent_id, ObjectChild.child_id)
_TOP = _LINK_COLUMNS.where(ObjectChild.parent_id == bindparam("root")).cte("below", recursive=True)
_BELOW = _TOP.union(_LINK_COLUMNS.join(_TOP, ObjectChild.parent_id == _TOP.c.child_id))
_TREE = select(_BELOW.c.parent_id, _BELOW.c.child_id)
INDEXES = (
    "CREATE INDEX IF NOT EXISTS collegium_object_children_child_id ON object_children (child_id)",
    "CREATE INDEX IF NOT EXISTS collegium_run_objects_object_id ON run_objects (object_id)",
    "CREATE INDEX IF NOT EXISTS collegium_message_ins_dst_node_id ON message_ins (dst_node_id)",
)
"""Without them each deletion and each look for a message reads all there are."""


class Objects(SqlObjectStore):
    """Flower's store."""

    @classmethod
    def of(cls, store: SqlObjectStore) -> "Objects":
        """The same store, over the same connections."""
        found = cls(store.database_url, store.verify)
        vars(found).update(vars(store))
        with found.session() as session:
            for statement in INDEXES:
                session.execute(text(statement))
        return found

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Note the objects of a message; those that are not there yet.

        Raises:
            ValueError: An object's name is none, it has a child twice, or others than before.
        """
        nodes: dict[str, list[str]] = {}  # children stand before their parents
        for node in iterate_object_tree(object_tree):
            children = [child.object_id for child in node.children]
            if set(nodes.setdefault(node.object_id, children)) != set(children):
                raise ValueError(f"Object {node.object_id} has different children in one message.")
        for name, children in nodes.items():
            if not is_valid_sha256_hash(name):
                raise ValueError(f"Invalid object ID format: {name}")
            if len(children) != len(set(children)):
                raise ValueError(f"Object {name} has duplicate children.")
        with self._mutation_session() as session:
            execute = session.connection().execute
            there = {str(name): bool(available) for name, available in execute(_THERE, {"objects": list(nodes)})}
            if there:
                links = {(parent, child) for parent, child in execute(_LINKS, {"objects": list(there)})}
                if links != {(name, child) for name in there for child in nodes[name]}:
                    raise ValueError("An object was preregistered with different children.")
            if new := [name for name in nodes if name not in there]:
                execute(_ADD, [{"name": name} for name in new])
            if links := {(name, child) for name in new for child in nodes[name]}:
                execute(_LINK, [{"parent_id": parent, "child_id": child} for parent, child in links])
                execute(_HOLD, [{"name": child} for _, child in links])
            execute(_OF_RUN, [{"run_id": uint64_to_int64(run_id), "object_id": name} for name in nodes])
        return [name for name in nodes if not there.get(name)]

    def put_all(self, objects: Mapping[str, bytes]) -> None:
        """Store objects under their hashes; those that are there already, or are not awaited, are left.

        Raises:
            ValueError: An object is not made as Flower makes them.
        """
        try:
            for content in objects.values():
                validate_object_content(content=content)
        except UnexpectedObjectContentError as error:
            raise ValueError(str(error)) from None
        with self.session() as session:
            session.connection().execute(_FILL, [{"name": name, "new": content} for name, content in objects.items()])

    def contents(self, names: Collection[str], most: int) -> dict[str, bytes]:
        """Objects by name; empty where awaited, and left out where it is unknown or has more than `most` bytes."""
        with self.session() as session:
            found = session.connection().execute(_CONTENTS, {"objects": list(names), "most": most})
            return {str(name): content or b"" for name, content in found}

    def get_object_tree(self, object_id: str) -> ObjectTree:
        """What an object is made of.

        Raises:
            NoObjectInStoreError: There is no such object.
        """
        with self.session() as session:
            execute = session.connection().execute
            if execute(_THERE, {"objects": [object_id]}).first() is None:
                raise NoObjectInStoreError(f"Object {object_id} was not pre-registered.")
            children: dict[str, list[str]] = {}
            for parent, child in execute(_TREE, {"root": object_id}):
                children.setdefault(parent, []).append(child)
        return _tree(object_id, children)

    def delete(self, object_id: str) -> None:
        """Delete an object, and what of its parts no other holds."""
        names: Any = {object_id}
        with self._mutation_session() as session:
            execute = session.connection().execute
            while names := [name for (name,) in execute(_FREE, {"objects": list(names)})]:
                children = [child for _, child in execute(_LINKS, {"objects": names})]
                execute(_DELETE, {"objects": names})
                if not children:
                    break
                execute(_LEAVE, [{"name": child} for child in children])
                names = set(children)


def _tree(name: str, children: Mapping[str, Collection[str]]) -> ObjectTree:
    return ObjectTree(object_id=name, children=[_tree(child, children) for child in children.get(name, ())])
