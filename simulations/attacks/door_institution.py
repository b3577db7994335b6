"""An enrolled institution sends what it may not: in others' names, as the coordinator, about others' messages."""

import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx
import tomli_w
from flwr.app import ConfigRecord, Message, RecordDict

from server.rounds.asking import Answer, ask
from server.service.operator import OperatorClient
from shared.flower.constants import SUPERLINK_NODE_ID
from shared.flower.grid import HttpGrid
from shared.flower.messages import (
    ConfirmMessageReceivedRequest,
    DeactivateNodeRequest,
    GetRunRequest,
    ObjectTree,
    PullMessagesRequest,
    PullMessagesResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushMessagesResponse,
    PushObjectResponse,
    SendNodeHeartbeatRequest,
    UnregisterNodeFleetRequest,
)
from shared.protocol import QueryReply, QueryRequest, encode
from simulations.attacks import Attack, Outcome
from simulations.attacks.coordinator import Institution, Reply, forked, instruct, new_home, running, words

SHARE_BYTES, MANY_OBJECTS = 2**20, 500
DEADLINE_SECONDS, PATIENCE_SECONDS = 6.0, 20.0


@dataclass
class Scene:
    """A run with an attacker, and with an honest institution that has been asked something."""

    operator: OperatorClient
    grid: HttpGrid
    attacker: Institution
    honest: Institution

    def asked(self) -> tuple[Message, Message]:
        """What the coordinator asks the attacker and the honest one; both have got it."""
        for institution in (self.attacker, self.honest):
            instruct(self.grid, institution, f"for {institution.node_id} at {time.monotonic()}")
        mine, other = self.attacker.pull(), self.honest.pull()
        assert mine is not None
        assert other is not None
        return mine, other


@contextmanager
def _scene(folder: Path, **settings: int) -> Iterator[Scene]:
    home = new_home(folder / "coordinator")
    if settings:
        values = tomllib.loads(home.settings_file.read_text(encoding="utf-8")) | settings
        home.settings_file.write_text(tomli_w.dumps(values), encoding="utf-8")
    with forked(home), OperatorClient(home) as operator, running(home) as grid:
        attacker, honest = Institution(home, "attacker"), Institution(home, "honest")
        with closing(attacker.http), closing(honest.http):
            yield Scene(operator, grid, attacker, honest)


def _tried(folder: Path, tries: tuple[Callable[[Scene], bool], ...]) -> Outcome:
    with _scene(folder) as scene:
        done = [attempt.__name__.strip("_") for attempt in tries if attempt(scene)]
    return Outcome(len(tries), len(done), ", ".join(done))


# --- In the coordinator's or another institution's name ---------------------------------------------------------------


def _announced(scene: Scene, reply: Reply) -> bool:
    answer = scene.attacker.push(reply)
    return answer.status_code == 200 and bool(PushMessagesResponse.FromString(answer.content).objects_to_push)


def _instruction_to_another_institution(scene: Scene) -> bool:
    mine, _ = scene.asked()
    order = Reply.to(mine, words("train on this"))
    order.message.metadata.reply_to_message_id = ""
    order.message.metadata.src_node_id = SUPERLINK_NODE_ID
    order.message.metadata.dst_node_id = scene.honest.node_id
    _announced(scene, order)
    return scene.honest.pull() is not None


def _instruction_to_the_coordinator(scene: Scene) -> bool:
    mine, _ = scene.asked()
    order = Reply.to(mine, words("x"))
    order.message.metadata.reply_to_message_id = ""
    order.message.metadata.src_node_id = SUPERLINK_NODE_ID
    return _announced(scene, order)


def _several_messages_at_once(scene: Scene) -> bool:
    mine, other = scene.asked()
    pushed = Reply.to(mine, words("mine")).request(scene.attacker.node)
    second = Reply.to(other, words("another's")).request(scene.attacker.node)
    pushed.messages_list.extend(second.messages_list)
    pushed.message_object_trees.extend(second.message_object_trees)
    return scene.attacker.ask("push-messages", pushed).status_code == 200


def _reply_in_anothers_name(scene: Scene) -> bool:
    _, other = scene.asked()
    return _announced(scene, Reply.to(other, words("the honest one says so")))


def _reply_to_anothers_message(scene: Scene) -> bool:
    _, other = scene.asked()
    reply = Reply.to(other, words("mine"))
    reply.message.metadata.src_node_id = scene.attacker.node_id
    return _announced(scene, reply)


def _second_reply(scene: Scene) -> bool:
    mine, _ = scene.asked()
    return scene.attacker.answer(mine, words("one")) and _announced(scene, Reply.to(mine, words("two")))


def _reply_with_anothers_objects(scene: Scene) -> bool:
    mine, other = scene.asked()
    stolen = Reply.to(other, words("the honest one's update"))
    assert scene.honest.push(stolen).status_code == 200
    reply = Reply.to(mine, words("mine"))
    reply.message.metadata.message_id = stolen.message.metadata.message_id
    reply.tree.CopyFrom(stolen.tree)
    return scene.attacker.push(reply).status_code == 200


def _node_calls(request: Callable[[Scene], tuple[str, object]]) -> Callable[[Scene], bool]:
    def attempt(scene: Scene) -> bool:
        path, message = request(scene)
        return scene.attacker.ask(path, message).status_code == 200

    attempt.__name__ = request.__name__
    return attempt


@_node_calls
def _deactivates_another(scene: Scene) -> tuple[str, object]:
    return "deactivate-node", DeactivateNodeRequest(node_id=scene.honest.node_id)


@_node_calls
def _unregisters_another(scene: Scene) -> tuple[str, object]:
    return "unregister-node", UnregisterNodeFleetRequest(node_id=scene.honest.node_id)


@_node_calls
def _keeps_another_alive(scene: Scene) -> tuple[str, object]:
    return "send-node-heartbeat", SendNodeHeartbeatRequest(node=scene.honest.node, heartbeat_interval=30)


@_node_calls
def _stays_online_without_a_word(scene: Scene) -> tuple[str, object]:
    return "send-node-heartbeat", SendNodeHeartbeatRequest(node=scene.attacker.node, heartbeat_interval=1800)


# --- What belongs to another ------------------------------------------------------------------------------------------


def _pulls_anothers_message(scene: Scene) -> bool:
    instruct(scene.grid, scene.honest, "for the honest one")
    answer = scene.attacker.ask("pull-messages", PullMessagesRequest(node=scene.honest.node))
    got = answer.status_code == 200 and bool(PullMessagesResponse.FromString(answer.content).messages_list)
    return got or scene.honest.pull() is None


def _pulls_anothers_object(scene: Scene) -> bool:
    _, other = scene.asked()
    about = other.metadata
    wanted = PullObjectRequest(node=scene.attacker.node, run_id=about.run_id, object_id=about.message_id)
    answer = scene.attacker.ask("pull-object", wanted)
    return answer.status_code == 200 and PullObjectResponse.FromString(answer.content).object_available


def _pulls_anothers_reply(scene: Scene) -> bool:
    _, other = scene.asked()
    reply = Reply.to(other, words("an update"))
    taken = PushMessagesResponse.FromString(scene.honest.push(reply).content)
    run_id, name = other.metadata.run_id, next(iter(taken.objects_to_push))
    scene.honest.push_object(run_id, taken.session_id, name, reply.objects[name])
    wanted = PullObjectRequest(node=scene.attacker.node, run_id=run_id, object_id=name)
    answer = scene.attacker.ask("pull-object", wanted)
    return answer.status_code == 200 and PullObjectResponse.FromString(answer.content).object_available


def _deletes_anothers_message(scene: Scene) -> bool:
    _, other = scene.asked()
    about = other.metadata
    confirmed = ConfirmMessageReceivedRequest(
        node=scene.attacker.node, run_id=about.run_id, message_object_id=about.message_id
    )
    scene.attacker.ask("confirm-message-received", confirmed)
    wanted = PullObjectRequest(node=scene.honest.node, run_id=about.run_id, object_id=about.message_id)
    return not PullObjectResponse.FromString(scene.honest.ask("pull-object", wanted).content).object_found


def _pushes_into_anothers_reply(scene: Scene) -> bool:
    _, other = scene.asked()
    reply = Reply.to(other, words("the honest one's update"))
    names = PushMessagesResponse.FromString(scene.honest.push(reply).content).objects_to_push
    # With an empty session Flower looks for whoever waits for the object.
    answers = [scene.attacker.push_object(other.metadata.run_id, "", name, b"garbage") for name in names]
    return any(answer.status_code == 200 for answer in answers)


def _asks_about_anothers_run(scene: Scene) -> bool:
    wanted = GetRunRequest(node=scene.attacker.node, run_id=scene.grid.run.run_id)
    return scene.attacker.ask("get-run", wanted).status_code == 200


# --- More than its share ----------------------------------------------------------------------------------------------


def _takes_more_than_its_share(folder: Path) -> Outcome:
    """A reply with more bytes than one may have, one of very many objects, and one very large object."""
    with _scene(folder, max_message_bytes=SHARE_BYTES) as scene:
        stored = _stored(scene, [bytes([number]) * (SHARE_BYTES // 2 - 1000) for number in range(6)])
        many = _announced_objects(scene, MANY_OBJECTS)
        large = _stored(scene, [bytes(12 * 2**20)])
    taken = [stored > SHARE_BYTES, many, large > SHARE_BYTES]
    return Outcome(3, sum(taken), f"{stored / 2**20:.1f} and {large / 2**20:.1f} MiB stored; 1 MiB is allowed")


def _stored(scene: Scene, pieces: list[bytes]) -> int:
    """Bytes of these pieces that the coordinator took as objects of one reply."""
    mine, _ = scene.asked()
    content = RecordDict({str(number): ConfigRecord({"piece": piece}) for number, piece in enumerate(pieces)})
    reply, stored = Reply.to(mine, content), 0
    taken = PushMessagesResponse.FromString(scene.attacker.push(reply).content)
    for name in taken.objects_to_push:
        with suppress(httpx.TransportError):  # refused before all of it was sent
            answer = scene.attacker.push_object(mine.metadata.run_id, taken.session_id, name, reply.objects[name])
            if answer.status_code == 200 and PushObjectResponse.FromString(answer.content).stored:
                stored += len(reply.objects[name])
    return stored


def _announced_objects(scene: Scene, count: int) -> bool:
    mine, _ = scene.asked()
    reply = Reply.to(mine, words("many"))
    names = [sha256(str(number).encode()).hexdigest() for number in range(count)]
    reply.tree.children.extend(ObjectTree(object_id=name) for name in names)
    return _announced(scene, reply)


# --- A reply that never comes -----------------------------------------------------------------------------------------


def _stalls(folder: Path) -> Outcome:
    """Announces a reply and sends none of it, while the honest one answers at once."""
    with _scene(folder) as scene:
        institutions = {"attacker": scene.attacker, "honest": scene.honest}
        found: dict[str, Answer] = {}

        def coordinator() -> None:
            nodes = {name: institution.node_id for name, institution in institutions.items()}
            requests = {name: QueryRequest(spec_digest="d") for name in institutions}
            with suppress(httpx.HTTPError, RuntimeError):  # the coordinator is stopped while it still waits
                for answer in ask(scene.grid, requests, nodes, group="1", deadline_seconds=DEADLINE_SECONDS, quorum=2):
                    found[answer.institution] = answer

        began = time.monotonic()
        thread = threading.Thread(target=coordinator, daemon=True)
        thread.start()
        assert scene.attacker.push(Reply.to(_first(scene.attacker), words("soon"))).status_code == 200
        reply = QueryReply(institution="honest", records={"t": {"train": 1}}, software="test")
        assert scene.honest.answer(_first(scene.honest), encode(reply))
        thread.join(PATIENCE_SECONDS)
        seconds = time.monotonic() - began
        statuses = {name: answer.status for name, answer in found.items()}
    kept = statuses.get("honest") == "ok" and statuses.get("attacker") in ("missing", "dropped")
    replies = ", ".join(f"{name} {status}" for name, status in sorted(statuses.items(), reverse=True))
    note = f"a round with a deadline of {DEADLINE_SECONDS:.0f} s took {seconds:.0f} s; replies: {replies}"
    return Outcome(1, int(not kept or seconds > DEADLINE_SECONDS + 5), note)


def _first(institution: Institution) -> Message:
    """The first message for it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if (message := institution.pull()) is not None:
            return message
        time.sleep(0.05)
    raise AssertionError("no message came")


SPEAKING = (
    _instruction_to_another_institution,
    _instruction_to_the_coordinator,
    _several_messages_at_once,
    _reply_in_anothers_name,
    _reply_to_anothers_message,
    _second_reply,
    _reply_with_anothers_objects,
    _deactivates_another,
    _unregisters_another,
    _keeps_another_alive,
    _stays_online_without_a_word,
)
TAKING = (
    _asks_about_anothers_run,
    _pulls_anothers_message,
    _pulls_anothers_object,
    _pulls_anothers_reply,
    _deletes_anothers_message,
    _pushes_into_anothers_reply,
)
PROMISE = "an institution sends to the coordinator alone, in its own name, and only what it was asked for"

ATTACKS = (
    Attack(
        "requests in the name of the coordinator or of another institution",
        "an institution",
        PROMISE,
        lambda folder: _tried(folder, SPEAKING),
    ),
    Attack(
        "reading, deleting and overwriting another institution's messages",
        "an institution",
        PROMISE,
        lambda folder: _tried(folder, TAKING),
    ),
    Attack(
        "more data stored at the coordinator than is allowed",
        "an institution",
        "a reply takes max_message_bytes of the coordinator's database and no more",
        _takes_more_than_its_share,
    ),
    Attack(
        "a reply that is announced and never comes",
        "an institution",
        "one institution cannot hold up a round beyond its deadline, nor have another one blamed",
        _stalls,
    ),
)
