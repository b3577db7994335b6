import inspect
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from client.service.supernode import IDLE_POLL, IDLE_SLEEP, LINGER, REPLY_POLL, Pauses, WholeRequestSigner
from shared.flower.http import ProtobufRequestContext
from shared.flower.keys import generate_key_pairs
from shared.flower.supernode import start_client_internal
from shared.signing import HEADER, read_signature

ROOT = Path(__file__).parents[2]


class Clock:
    def __init__(self) -> None:
        self.now, self.slept = 1000.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pauses(clock: Clock) -> Pauses:
    return Pauses(0.25, sleep=clock.sleep, now=lambda: clock.now)


def test_a_quiet_federation_is_asked_once_a_second(pauses: Pauses, clock: Clock) -> None:
    pauses.sleep(IDLE_SLEEP)
    assert clock.slept == [IDLE_POLL]


def test_after_a_message_the_next_is_expected_for_a_minute(pauses: Pauses, clock: Clock) -> None:
    pauses.sleep(0.5)  # waiting for a reply: a message has come
    pauses.sleep(IDLE_SLEEP)
    assert clock.slept == [REPLY_POLL, 0.25]
    clock.now += LINGER
    pauses.sleep(IDLE_SLEEP)
    assert clock.slept[-1] == IDLE_POLL


def test_a_poll_above_one_second_is_never_shortened(clock: Clock) -> None:
    Pauses(5.0, sleep=clock.sleep, now=lambda: clock.now).sleep(IDLE_SLEEP)
    assert clock.slept == [5.0]


def test_flowers_loop_is_as_this_module_takes_it_to_be() -> None:
    source = inspect.getsource(start_client_internal)
    assert set(re.findall(r"\btime\.\w+", source)) == {"time.sleep"}
    assert re.findall(r"time\.sleep\((.*)\)", source) == [str(IDLE_SLEEP), "0.5", "0.5"]
    assert f"if run_id is None:\n{' ' * 16}# If no message was received, wait for a while" in source


def run_main(flower: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """`main` with this function in the place of Flower's."""
    own = "from client.service import supernode as own"
    code = f"import sys, time\n{own}\n{flower}\nown.flower_supernode = flower\nown.main()"
    return subprocess.run(
        [sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


def test_options_and_pauses_reach_flower() -> None:
    flower = (
        "def flower():\n"
        "    from flwr.supernode import start_client_internal as loop\n"
        "    began = time.monotonic(); loop.time.sleep(3); loop.time.sleep(0.5); loop.time.sleep(3)\n"
        "    print(sys.argv[1:], 1.1 < time.monotonic() - began < 2); sys.exit()"
    )
    ended = run_main(flower, "--poll", "0.1", "--", "--superlink", "127.0.0.1:1")
    assert (ended.stdout.strip(), ended.returncode) == ("['--superlink', '127.0.0.1:1'] True", 0)


@pytest.mark.parametrize("end", ["return", "raise ValueError('bad answer')"])
def test_when_flowers_loop_ends_by_an_error_the_process_ends_too(end: str) -> None:
    flower = (
        f"def flower():\n    import threading\n    threading.Thread(target=time.sleep, args=(60,)).start()\n    {end}"
    )
    began = time.monotonic()
    ended = run_main(flower)
    assert ended.returncode == 1
    assert time.monotonic() - began < 20
    assert "ended by an error" in ended.stderr
    assert ("bad answer" in ended.stderr) == ("bad answer" in end)


def test_arrays_on_their_way_are_asked_for_soon() -> None:
    flower = (
        "def flower():\n"
        "    from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError\n"
        "    from flwr.supernode import start_client_internal as loop\n"
        "    asked = []\n"
        "    def pull(name):\n"
        "        asked.append(name)\n"
        "        if len(asked) == 1: raise ObjectUnavailableError(name)\n"
        "        return b'content'\n"
        "    began = time.monotonic()\n"
        "    print(loop.pull_objects(['a'], pull_object_fn=pull), time.monotonic() - began < 0.6); sys.exit()"
    )
    assert run_main(flower).stdout.strip() == "{'a': b'content'} True"


def test_every_request_is_signed_whole_and_as_flower_does() -> None:
    pair = generate_key_pairs()
    request = httpx.Request("POST", "https://localhost:1/v1/fleet/push-object?x=1", content=b"abc")
    context = ProtobufRequestContext(rpc_method="", message=None, request=request)
    WholeRequestSigner(*pair).intercept(context, lambda _: httpx.Response(200))
    signature = read_signature(request.headers[HEADER])
    assert signature.digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert signature.verify(pair[1], "POST", "/v1/fleet/push-object")
    assert not signature.verify(pair[1], "POST", "/v1/fleet/push-messages")
    assert not signature.verify(generate_key_pairs()[1], "POST", "/v1/fleet/push-object")
    assert "flwr-signature" in request.headers


def test_the_signer_takes_the_place_of_flowers() -> None:
    flower = (
        "def flower():\n"
        "    from flwr.supernode import fleet_http_connection as connection\n"
        "    print(connection.NodeAuthHttpInterceptor.__name__); sys.exit()"
    )
    assert run_main(flower).stdout.strip() == "WholeRequestSigner"
