"""One root, two levels, and what each error carries."""

from __future__ import annotations

import pickle

import pytest

from msp_sdk import errors
from msp_sdk.errors import (
    CentralError,
    ClaimRejectedError,
    LogonRejectedError,
    MspError,
    PartialResultError,
    RateLimitedError,
    TransportError,
    TransportTimeoutError,
    WireError,
)


def every_error() -> list[type[MspError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, MspError)]
    assert len(found) > 20
    return found


def test_message_says_what_happened_and_what_to_do():
    error = MspError("The door is shut.", remedy="Open it.")
    assert str(error) == "The door is shut. Open it."
    assert error.detail == "The door is shut."


def test_message_without_a_remedy_has_no_loose_end():
    assert str(MspError("The door is shut.")) == "The door is shut."


def test_defaults_are_the_class_and_can_be_replaced():
    assert (LogonRejectedError("no").code, LogonRejectedError("no").retryable) == ("wrong-password", False)
    changed = LogonRejectedError("no", code="account-locked", remedy="", retryable=True, context={"host": "srv1"})
    assert (changed.code, changed.remedy, changed.retryable, changed.context) == (
        "account-locked",
        "",
        True,
        {"host": "srv1"},
    )


def test_context_is_a_copy():
    facts: dict[str, object] = {"host": "srv1"}
    error = MspError("no", context=facts)
    facts["password"] = "x"
    assert error.context == {"host": "srv1"}


def test_codes_are_slugs_and_tell_classes_apart():
    codes: dict[str, type[MspError]] = {}
    # A host out of reach and a Central out of reach are the same thing to a reader: no answer.
    shared = {"no-answer"}
    for kind in every_error():
        code = kind.default_code
        assert code == code.lower()
        assert code.replace("-", "").isalnum()
        if code not in shared:
            assert code not in codes, f"{kind.__name__} and {codes[code].__name__} share {code}"
        codes[code] = kind


def test_the_tree_has_two_levels_under_its_root():
    for kind in every_error():
        depth = kind.__mro__.index(MspError)
        assert depth <= 2, f"{kind.__name__} lies {depth} below the root"


def test_a_refused_password_is_never_worth_a_repeat():
    assert not LogonRejectedError("no").retryable
    assert TransportError("no").retryable
    assert TransportTimeoutError("no").retryable
    assert not WireError("no").retryable


def test_wire_error_names_its_place():
    assert WireError("is not text", path="a.b").errors == (("a.b", "is not text"),)
    assert WireError("is odd").errors == ()
    assert WireError("no", path="a", errors=(("a", "x"), ("b", "y"))).errors == (("a", "x"), ("b", "y"))


def test_central_error_keeps_what_central_said():
    error = ClaimRejectedError("spent", status=409, code="provision-code-claimed", problem={"title": "x"})
    assert (error.status, error.code, error.problem, error.context) == (
        409,
        "provision-code-claimed",
        {"title": "x"},
        {"status": 409},
    )
    assert RateLimitedError("later", status=429, retry_after_s=7.0).retry_after_s == 7.0


def test_a_partial_result_keeps_what_came():
    error = PartialResultError("broke off", received=("a", "b"))
    assert error.received == ("a", "b")
    assert error.context == {"received_count": 2}


def test_one_except_catches_them_all():
    for kind in every_error():
        with pytest.raises(MspError):
            raise kind("no", status=400) if issubclass(kind, CentralError) else kind("no")


def test_an_error_comes_whole_out_of_another_process():
    # A pool of processes pickles what it raises; an error that cannot be rebuilt hangs the pool.
    back = pickle.loads(pickle.dumps(MspError("The door is shut.", code="shut", retryable=True)))  # noqa: S301 (ours)
    assert (back.code, back.retryable) == ("shut", True)


def test_what_central_said_comes_whole_out_of_another_process():
    error = RateLimitedError("later", status=429, retry_after_s=7.0)
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 (ours)
    assert (back.status, back.retry_after_s, str(back)) == (429, 7.0, str(error))
