"""What is owed is a number: a lost message loses nothing."""

from __future__ import annotations

from msp_sdk.models.generation import acknowledge, owed


def test_nothing_is_owed_at_the_start():
    assert owed({}, {}) == ()
    assert owed({"enumeration": 0, "scan": 0}, {}) == ()


def test_a_wish_is_owed_until_it_is_completed():
    assert owed({"enumeration": 1}, {}) == ("enumeration",)
    assert owed({"enumeration": 1}, {"enumeration": 1}) == ()


def test_a_lost_reply_loses_no_wish():
    # lesson 11: the wish is still above what was done, however often it was sent.
    wished = {"enumeration": 3}
    assert [owed(wished, {"enumeration": 2}) for _ in range(3)] == [("enumeration",)] * 3


def test_enumeration_comes_before_scan_whatever_the_order_on_the_wire():
    assert owed({"scan": 1, "enumeration": 1}, {}) == ("enumeration", "scan")


def test_work_of_a_newer_central_comes_last_in_a_fixed_order():
    assert owed({"zeta": 1, "scan": 1, "alpha": 1}, {}) == ("scan", "alpha", "zeta")


def test_completed_work_that_nobody_wished_is_not_owed():
    assert owed({"scan": 1}, {"scan": 1, "enumeration": 9}) == ()


def test_an_acknowledgement_counts():
    assert acknowledge(done=1, sent=2, wished=2) == 2


def test_an_old_acknowledgement_does_not_go_back():
    assert acknowledge(done=3, sent=2, wished=3) == 3


def test_an_acknowledgement_from_the_future_swallows_no_wish():
    done = acknowledge(done=1, sent=10_000, wished=2)
    assert done == 2
    assert owed({"scan": 3}, {"scan": done}) == ("scan",)
