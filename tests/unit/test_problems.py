"""Problem documents: one table for both sides of the wire."""

from __future__ import annotations

import pytest

from msp_sdk.errors import CentralError, ClaimRejectedError, NotEnrolledError, RateLimitedError
from msp_sdk.wire.problems import PROBLEMS, error_from_problem, render_problem


@pytest.mark.parametrize("code", sorted(PROBLEMS))
def test_every_problem_comes_back_as_the_error_it_is(code):
    kind = PROBLEMS[code]
    error = error_from_problem(kind.status, render_problem(code, "What happened."))
    assert (error.code, error.status, error.retryable) == (code, kind.status, kind.retryable)
    assert error.detail == "What happened."
    assert error.remedy == kind.remedy or not kind.remedy


def test_every_problem_has_a_status_of_an_error_and_a_sentence():
    for kind in PROBLEMS.values():
        assert 400 <= kind.status < 600
        assert kind.title.endswith(".")


def test_only_a_wish_to_wait_is_retryable():
    retryable = {kind.code for kind in PROBLEMS.values() if kind.retryable}
    # A report of an appliance that awaits approval stays in its outbox.
    assert retryable == {"not-approved", "rate-limited", "unavailable"}


def test_places_are_listed_and_nothing_is_made_up():
    document = render_problem("invalid", "no", errors=(("a.b", "is missing"),), request_id="r1")
    assert document["errors"] == [{"path": "a.b", "message": "is missing"}]
    assert document["request_id"] == "r1"
    assert "errors" not in render_problem("invalid", "no")


def test_an_unknown_code_is_a_defect_of_ours():
    with pytest.raises(KeyError):
        render_problem("no-such-code", "no")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, NotEnrolledError),
        (429, RateLimitedError),
        (503, RateLimitedError),
        (500, CentralError),
        (418, CentralError),
    ],
)
def test_an_answer_of_a_proxy_without_a_document_is_an_error_too(status, kind):
    error = error_from_problem(status, {})
    assert type(error) is kind
    assert str(status) in error.detail


def test_a_code_of_a_newer_central_is_kept():
    error = error_from_problem(
        409, {"code": "moon-phase", "detail": "Not tonight.", "retryable": True, "remedy": "Wait."}
    )
    assert (error.code, error.retryable, error.remedy) == ("moon-phase", True, "Wait.")


@pytest.mark.parametrize(
    "document",
    [{"code": 5, "detail": 7, "remedy": [], "retryable": "yes"}, {"code": None, "detail": None, "title": None}],
)
def test_a_document_of_the_wrong_kinds_does_not_break_the_client(document):
    error = error_from_problem(422, document)
    assert error.status == 422
    assert not error.retryable
    assert isinstance(str(error), str)


def test_refused_claims_are_told_apart_from_other_conflicts():
    assert isinstance(error_from_problem(409, {"code": "provision-code-claimed"}), ClaimRejectedError)
    assert not isinstance(error_from_problem(409, {"code": "conflict"}), ClaimRejectedError)
