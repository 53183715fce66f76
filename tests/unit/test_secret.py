"""A secret shows itself nowhere but where it is asked to."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
import traceback
from datetime import UTC, datetime

import pytest
from attrs import asdict, frozen

from msp_sdk.models.credential import Credential, NewCredential
from msp_sdk.models.partner import ApiKey, LoginCode, SessionRequest
from msp_sdk.secret import Secret

TEXT = "hunter2-'\"`$(x)"


@frozen
class Holder:
    name: str
    password: Secret


def test_reveal_gives_the_text_unchanged():
    assert Secret(TEXT).reveal() == TEXT


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        "{}".format,
        "{!r}".format,
        "{!s:>20}".format,
        lambda secret: f"{secret}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 (this way of formatting is what is tested)
        lambda secret: f"{[secret]}{ ({'a': secret}) }{(secret,)}",
        lambda secret: repr(Holder("a", secret)),
        lambda secret: str(asdict(Holder("a", secret))),
        lambda secret: str(vars(SessionRequest) | {"request": SessionRequest(api_key=secret)}),
    ],
)
def test_text_never_shows(show):
    assert TEXT not in show(Secret(TEXT))


def test_models_that_hold_a_secret_do_not_show_it():
    now = datetime(2026, 1, 2, tzinfo=UTC)
    shown = [
        NewCredential("winrm", "admin", Secret(TEXT)),
        LoginCode(Secret(TEXT), now),
        ApiKey("k", "u", "", "admin", now, api_key=Secret(TEXT)),
        Credential.typed("admin", Secret(TEXT)),
    ]
    assert TEXT not in repr(shown)


def test_a_padded_format_keeps_its_width_and_nothing_else():
    assert f"{Secret(TEXT):>5}" == "    …"


def test_pickling_is_refused():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(Holder("a", Secret(TEXT)), protocol)


def test_json_is_refused():
    with pytest.raises(TypeError):
        json.dumps({"password": Secret(TEXT)})


def test_a_copy_is_the_same_secret():
    secret = Secret(TEXT)
    assert copy.copy(secret) is secret
    assert copy.deepcopy(Holder("a", secret)).password is secret


def test_a_traceback_with_locals_does_not_show_it():
    def fail(password: Secret) -> None:
        holder = Holder("a", password)
        raise ValueError(holder)

    with pytest.raises(ValueError, match="Holder") as caught:
        fail(Secret(TEXT))
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "password = Secret('…')" in shown
    # Source lines name TEXT and never spell it, so the text could only come from a value.
    assert "hunter2" not in shown


def test_logging_does_not_show_it():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("test-secret")
    logger.addHandler(handler)
    try:
        logger.error("logon with %s and %r", Secret(TEXT), Holder("a", Secret(TEXT)))
        logger.error("%(password)s", {"password": Secret(TEXT)})
    finally:
        logger.removeHandler(handler)
    assert "logon with …" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_equality_is_by_content_and_only_with_secrets():
    assert Secret("ä") == Secret("ä")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("a") not in ("a", b"a", None)


def test_it_cannot_be_a_key_where_it_would_be_kept():
    with pytest.raises(TypeError, match="unhashable"):
        {Secret(TEXT)}


def test_an_empty_secret_is_false():
    assert not Secret("")
    assert Secret(" ")


def test_it_takes_no_attributes_and_has_no_dict():
    assert not hasattr(Secret(TEXT), "__dict__")
    with pytest.raises(AttributeError):
        Secret(TEXT).note = TEXT  # type: ignore[attr-defined]
