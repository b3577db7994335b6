"""Who is signed in to a page: by a token that is good now, for a time, and nobody by guessing."""

from shared.page.sessions import LIFETIME_SECONDS, MOST_SESSIONS, MOST_TRIES, TRIES_SECONDS, Role, Sessions


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_cookie_says_nothing_of_the_token_and_ends() -> None:
    clock = Clock()
    sessions = Sessions(lambda: {"operator": "secret", "viewer": "window"}, clock)
    value = sessions.sign_in("secret")
    assert value is not None
    assert "secret" not in value
    found = sessions.find(value)
    assert found is not None
    assert found.role == "operator"
    assert "secret" not in repr(found)
    assert sessions.sign_in("secret ") is None
    assert sessions.sign_in("") is None
    assert sessions.find("") is None
    clock.now = LIFETIME_SECONDS
    assert sessions.find(value) is None


def test_a_new_token_ends_the_sessions_of_the_old_one() -> None:
    tokens: dict[Role, str] = {"operator": "secret", "viewer": "window"}
    sessions = Sessions(lambda: tokens)
    operator, viewer = sessions.sign_in("secret"), sessions.sign_in("window")
    assert operator
    assert viewer
    tokens["viewer"] = "another"
    assert sessions.find(viewer) is None
    assert sessions.find(operator)
    del tokens["operator"]
    assert sessions.find(operator) is None


def test_attempts_are_counted_whoever_makes_them() -> None:
    clock = Clock()
    sessions = Sessions(lambda: {}, clock)
    assert all(sessions.may_try() for _ in range(MOST_TRIES))
    assert not sessions.may_try()
    clock.now = TRIES_SECONDS
    assert sessions.may_try()


def test_the_oldest_session_gives_way() -> None:
    sessions = Sessions(lambda: {"viewer": "window"})
    values = [sessions.sign_in("window") or "" for _ in range(MOST_SESSIONS + 1)]
    assert sessions.find(values[0]) is None
    assert sessions.find(values[1])
    sessions.sign_out(values[1])
    assert sessions.find(values[1]) is None
