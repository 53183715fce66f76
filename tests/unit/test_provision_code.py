"""Provision codes as people type them, and their QR text."""

from __future__ import annotations

import secrets

import pytest

from msp_sdk.errors import WireError
from msp_sdk.models.provision import (
    ALPHABET,
    CODE_LENGTH,
    Provision,
    new_code,
    parse_code,
    parse_qr,
    qr_content,
    render_code,
)
from msp_sdk.secret import Secret

CODE = Secret("K7QX0123456789AB")


def test_a_code_holds_all_eighty_bits():
    assert new_code(lambda count: b"\x00" * count).reveal() == "0" * 16
    assert new_code(lambda count: b"\xff" * count).reveal() == "Z" * 16
    assert new_code(lambda count: bytes(range(count))).reveal() == "000G40R40M30E209"


def test_new_codes_are_canonical():
    for _ in range(50):
        code = new_code(secrets.token_bytes)
        assert parse_code(code.reveal()) == code
        assert parse_code(render_code(code)) == code


def test_a_code_is_shown_in_groups_of_four():
    assert render_code(CODE) == "K7QX-0123-4567-89AB"


@pytest.mark.parametrize(
    "typed",
    [
        "K7QX-0123-4567-89AB",
        "k7qx0123456789ab",
        "  K7QX 0123 4567 89AB \n",
        "k7qx-o123-4567-89ab",
        "K7QX-OI23-4567-89AB",
        "K7QX-0L23-4567-89AB",
        "k7qx--0l2-3456-789a-b",
        "K7QX\t0123\u00a04567 89AB",
    ],
)
def test_a_code_is_read_as_people_type_it(typed):
    assert parse_code(typed) == CODE


@pytest.mark.parametrize(
    "typed", ["", "K7QX", "K7QX-0123-4567-89A", "K7QX-0123-4567-89ABC", "K7QX-0123-4567-89AU", "K7QX-0123-4567-89Ä!"]
)
def test_a_malformed_code_is_refused_without_repeating_it(typed):
    with pytest.raises(WireError) as caught:
        parse_code(typed)
    assert caught.value.code == "provision-code-malformed"
    assert caught.value.remedy
    assert not typed or typed not in str(caught.value)


def test_letters_that_are_easily_confused_are_not_in_the_alphabet():
    assert not set("ILOU") & set(ALPHABET)
    assert len(set(ALPHABET)) == 32
    assert CODE_LENGTH * 5 == 80


def test_a_qr_text_comes_back_whole():
    for pin in (None, "00 aa&=?#"):
        text = qr_content(CODE, "https://central.example:8443/msp?a=b&c=d", pin)
        assert text.startswith("msp-claim:?code=K7QX-0123-4567-89AB&central=https%3A%2F%2F")
        assert parse_qr(text) == (CODE, "https://central.example:8443/msp?a=b&c=d", pin)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://evil.example/?code=K7QX-0123-4567-89AB&central=x",
        "msp-claim:?central=https%3A%2F%2Fc",
        "msp-claim:?code=K7QX-0123-4567-89AB",
        "msp-claim:?code=short&central=https%3A%2F%2Fc",
    ],
)
def test_another_qr_text_is_refused(text):
    with pytest.raises(WireError) as caught:
        parse_qr(text)
    assert caught.value.code == "provision-code-malformed"


def test_a_listed_code_does_not_show_in_a_repr():
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, tzinfo=UTC)
    shown = repr(
        Provision("p", "s", "pending", now, now, provision_code="K7QX-0123-4567-89AB", qr_content="msp-claim:?K7QX")
    )
    assert "K7QX" not in shown
