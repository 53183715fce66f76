"""Laws of generations that hold for every order of wishes, losses and repeats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msp_sdk.models.generation import acknowledge, owed

NUMBERS = st.integers(min_value=0, max_value=2**40)
WORK = st.sampled_from(["enumeration", "scan", "tidy", "audit"])
COUNTS = st.dictionaries(WORK, NUMBERS)


@given(done=NUMBERS, sent=NUMBERS, wished=NUMBERS)
def test_what_is_done_never_goes_back_and_never_passes_the_wish(done, sent, wished):
    after = acknowledge(done, sent, wished)
    assert after >= done
    assert after <= max(done, wished)


@given(done=NUMBERS, sent=NUMBERS, wished=NUMBERS)
def test_a_repeat_of_an_acknowledgement_changes_nothing(done, sent, wished):
    once = acknowledge(done, sent, wished)
    assert acknowledge(once, sent, wished) == once


@given(done=NUMBERS, first=NUMBERS, second=NUMBERS, wished=NUMBERS)
def test_the_order_of_acknowledgements_does_not_matter(done, first, second, wished):
    one = acknowledge(acknowledge(done, first, wished), second, wished)
    other = acknowledge(acknowledge(done, second, wished), first, wished)
    assert one == other


@given(wished=COUNTS, completed=COUNTS)
def test_exactly_what_is_above_the_completed_is_owed(wished, completed):
    assert set(owed(wished, completed)) == {work for work in wished if wished[work] > completed.get(work, 0)}
    assert len(set(owed(wished, completed))) == len(owed(wished, completed))


@given(wished=COUNTS, completed=COUNTS)
def test_what_is_completed_is_not_owed_again(wished, completed):
    assert owed(wished, {**completed, **wished}) == ()


@given(
    steps=st.lists(
        st.sampled_from(
            ["wish", "ask", "ask, reply lost", "work", "tell", "tell, request lost", "tell twice", "restart"]
        )
    )
)
def test_no_loss_of_messages_loses_a_wish(steps):
    """lesson 11: after any history one undisturbed round brings both sides to the same number."""
    wished = done = heard = completed = stored = 0
    for step in steps:
        if step == "wish":
            wished += 1
        elif step == "ask":
            heard = wished
        elif step == "work" and owed({"scan": heard}, {"scan": completed}):
            completed = stored = heard
        elif step in ("tell", "tell twice"):
            for _ in range(2 if step == "tell twice" else 1):
                done = acknowledge(done, completed, wished)
        elif step == "restart":
            # What was completed is stored before it is told; what was heard is asked for again.
            heard, completed = 0, stored
        assert done <= wished
        assert done <= completed
    heard = wished
    if owed({"scan": heard}, {"scan": completed}):
        completed = heard
    assert acknowledge(done, completed, wished) == wished
