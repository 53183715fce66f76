"""What decides on the way onto a host: doors, names, identity, envelopes, faults. No I/O."""

from __future__ import annotations

import base64
import json
import re
from xml.etree.ElementTree import canonicalize

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from winrm.protocol import Protocol
from winrm.transport import Transport

from msp_sdk import errors
from msp_sdk.models.credential import Credential
from msp_sdk.models.target import Target
from msp_sdk.secret import Secret
from msp_sdk.testing.certificates import EstateCA
from msp_sdk.windows import doors, faults
from msp_sdk.windows.channel import names_in
from msp_sdk.windows.doors import Door, HostPolicy
from msp_sdk.windows.envelope import ARGUMENTS, COMMAND, Stdin, encode_input, envelope_ended, parse_envelope
from msp_sdk.windows.identity import HostIdentity, check_identity
from msp_sdk.windows.messages import render
from msp_sdk.windows.scripts import load

TARGET = Target(hostname="SRV1", role="server", fqdn="srv1.corp.example", domain_name="corp.example")
HTTPS, HTTP = Door(5986, tls=True), Door(5985, tls=False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (HTTPS, HTTP)),
        ({"use_ssl": True}, (HTTPS,)),
        ({"port": 5985}, (HTTP,)),
        ({"port": 5985, "use_ssl": True}, (Door(5985, tls=True),)),
        ({"port": 8443}, (Door(8443, tls=True),)),
        ({"doors": (5985,)}, (HTTP, HTTPS)),
        ({"use_ssl": True, "doors": (5985,)}, (HTTPS,)),
        ({"doors": (5985, 5986)}, (HTTPS, HTTP)),
        ({"port": 5986, "doors": (5985,)}, (HTTPS,)),
    ],
)
def test_doors_are_tried_https_first_but_what_a_probe_found_open_before_the_rest(changes, expected) -> None:
    # Lesson 36: a probe grows old, so the other door is still tried after it.
    assert doors.doors(evolve(TARGET, **changes)) == expected


def test_names_are_never_resolved_and_an_address_is_used_itself() -> None:
    # Lesson 57.
    assert doors.addresses(evolve(TARGET, hostname="10.0.0.5", fqdn=None)) == ("10.0.0.5",)
    assert doors.addresses(evolve(TARGET, ip_addresses=("10.0.0.6", "10.0.0.7"))) == ("10.0.0.6", "10.0.0.7")
    with pytest.raises(errors.UnreachableError) as caught:
        doors.addresses(TARGET)
    assert caught.value.code == "no-address"


@pytest.mark.parametrize(
    ("found", "good"),
    [
        (("srv1.corp.example",), True),
        (("SRV1.CORP.EXAMPLE",), True),
        (("SRV1",), True),
        (("*.corp.example",), True),
        (("*.example",), False),
        (("*",), False),
        (("srv2.corp.example",), False),
        (("srv1.corp.example.evil",), False),
        ((), False),
    ],
)
def test_certificate_is_good_for_one_of_the_hosts_names(found: tuple[str, ...], good) -> None:
    assert doors.names_match(doors.certificate_names(TARGET), found) is good


def test_address_in_a_certificate_matches_in_any_spelling() -> None:
    target = evolve(TARGET, hostname="2001:DB8:0:0::5", fqdn=None)
    assert doors.names_match(doors.certificate_names(target), ("2001:db8::5",))
    assert not doors.names_match(doors.certificate_names(target), ("2001:db8::6",))


@pytest.mark.parametrize(
    ("username", "role", "host", "allowed"),
    [
        (r".\admin", "server", None, True),
        ("admin", "server", None, True),
        (r"CORP\admin", "server", None, False),
        ("admin@corp.example", "server", None, False),
        (r".\admin", "domain_controller", None, False),
        (r"CORP\admin", "server", "srv1", True),
    ],
)
def test_local_administrator_of_a_site_is_never_an_account_whose_refusals_add_up(username, role, host, allowed) -> None:
    # Lesson 32: with a domain's account each host that refuses it would be one more strike on that account.
    credential = Credential("c1", 1, "local_admin", username, lambda: Secret("x"), host=host)
    target = evolve(TARGET, role=role)
    if allowed:
        doors.check_logon_place(target, credential, HostPolicy())
        return
    with pytest.raises(errors.LogonNotAllowedError) as caught:
        doors.check_logon_place(target, credential, HostPolicy())
    assert caught.value.code == "not-a-local-account"


def test_local_account_is_shown_as_one_of_the_host_itself() -> None:
    credential = Credential("c1", 1, "local_admin", "admin", lambda: Secret("x"))
    assert doors.logon_name(credential) == r".\admin"
    assert doors.logon_name(evolve(credential, username=r".\admin")) == r".\admin"
    assert doors.logon_name(evolve(credential, type="winrm")) == "admin"


def test_names_of_a_certificate_are_read() -> None:
    issued = EstateCA.make("CA").issue(["a.example", "b.example"], ["10.0.0.5"])
    assert names_in(issued.der) == ("a.example", "b.example", "10.0.0.5")
    assert names_in(EstateCA.make("CA").issue([]).der) == ("server",)


@pytest.mark.parametrize(
    ("target", "identity"),
    [
        ({}, {"computer_name": "srv1", "dns_domain": "CORP.example"}),
        ({"sid": "S-1-5-21-1"}, {"computer_name": "RENAMED", "sid": "s-1-5-21-1"}),
        ({"hostname": "10.0.0.5", "fqdn": None}, {"computer_name": "ANY", "dns_domain": "corp.example"}),
        ({"hostname": "a-very-long-host-name", "fqdn": None}, {"computer_name": "A-VERY-LONG-HOS"}),
        ({"sid": "S-1-5-21-1"}, {"computer_name": "SRV1", "dns_domain": "corp.example"}),
        ({}, {"computer_name": "SRV1", "domain": "WORKGROUP"}),
    ],
)
def test_machine_that_was_meant_is_recognised(target, identity) -> None:
    check_identity(evolve(TARGET, **target), HostIdentity(**identity))


@pytest.mark.parametrize(
    ("target", "identity"),
    [
        ({}, {"computer_name": "SRV2"}),
        ({}, {"computer_name": "SRV1", "dns_domain": "other.example"}),
        ({"sid": "S-1-5-21-1"}, {"computer_name": "SRV1", "sid": "S-1-5-21-2"}),
        ({"object_guid": "g1"}, {"computer_name": "SRV1", "domain": "WORKGROUP"}),
    ],
)
def test_another_machine_is_wrong_host(target, identity) -> None:
    # Lesson 54.
    with pytest.raises(errors.WrongHostError):
        check_identity(evolve(TARGET, **target), HostIdentity(**identity))


def stdout(**changes) -> bytes:
    document = {"run_id": "r1", "ok": True, "value": {"a": 1}, "error": None, "host": {"computer_name": "SRV1"}}
    data = base64.b64encode(json.dumps({**document, **changes}).encode())
    return b"MSP1-ENVELOPE\r\n" + data + b"\r\n"


def test_envelope_with_our_run_id_is_read_even_among_other_lines() -> None:
    envelope = parse_envelope(b"profile noise\r\n" + stdout() + b"more\r\n", "r1", script="s")
    assert (envelope.ok, envelope.value) == (True, {"a": 1})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        stdout(run_id="r2"),
        stdout(run_id=None),
        stdout(value=None),
        stdout(value=[1]),
        stdout(host=None),
        stdout(host={}),
        stdout(ok="true"),
        stdout(ok=False),
        stdout() + stdout(),
        b"MSP1-ENVELOPE\r\n!!!\r\n",
        b"MSP1-ENVELOPE\r\nW10=\r\n",
    ],
)
def test_anything_else_is_a_failure(data: bytes) -> None:
    # Lesson 39.
    with pytest.raises(errors.ScriptFailedError):
        parse_envelope(data, "r1", script="s")


@given(st.binary(max_size=300))
def test_no_output_makes_the_reader_fail_in_another_way(data: bytes) -> None:
    with pytest.raises(errors.ScriptFailedError):
        parse_envelope(b"MSP1-ENVELOPE\n" + data, "r1", script="s")


def test_failed_script_says_its_code_and_a_strange_code_is_not_taken_over() -> None:
    failure = {"code": "disk-full", "detail": "x" * 5000}
    envelope = parse_envelope(stdout(ok=False, error=failure), "r1", script="s")
    assert (envelope.ok, envelope.code, len(envelope.detail)) == (False, "disk-full", 2000)
    strange = parse_envelope(stdout(ok=False, error={"code": "<script>", "detail": ""}), "r1", script="s")
    assert strange.code == "script-failed"


@pytest.mark.parametrize("parameters", [{"x": object()}, {"x": float("nan")}])
def test_parameters_that_are_no_json_are_refused_before_anything_is_sent(parameters) -> None:
    with pytest.raises(errors.WindowsError) as caught:
        encode_input(load("identify"), parameters, "r1")
    assert caught.value.code == "bad-parameters"


@pytest.mark.parametrize("run_id", ["", "a" * 65, "a b", "../x", "a\n"])
def test_id_of_a_run_is_a_plain_name_since_it_names_a_file(run_id: str) -> None:
    with pytest.raises(errors.WindowsError):
        encode_input(load("identify"), {}, run_id)


@given(st.binary(max_size=500), st.integers(1, 100))
def test_pieces_are_the_whole_and_only_the_last_ends(data: bytes, size: int) -> None:
    pieces = list(Stdin(b"head", data).pieces(size))
    head, *payload, end, rest = b"".join(piece for piece, _ in pieces).split(b"\n")
    assert (head, b"".join(map(base64.b64decode, payload)), end, rest) == (b"head", data, b".", b"")
    assert max(len(piece) for piece, _ in pieces) <= size
    assert [end for _, end in pieces] == [False] * (len(pieces) - 1) + [True]


def test_pieces_grow_twofold_up_to_the_most() -> None:
    sizes = [len(piece) for piece, _ in Stdin(b"", b"x" * 60_000).pieces(1000, 9000)]
    assert sizes[:5] == [1000, 2000, 4000, 8000, 9000]
    assert set(sizes[4:-1]) == {9000}


@pytest.mark.parametrize(
    ("stdout", "ended"),
    [
        (b"", False),
        (b"MSP1-ENVELOPE", False),
        (b"MSP1-ENVELOPE\r\n", False),
        (b"MSP1-ENVELOPE\r\nabc", False),
        (b"noise\nMSP1-ENVELOPE\r\nabc\n", True),
    ],
)
def test_answer_ends_with_its_envelope_and_not_before(stdout: bytes, ended) -> None:
    assert envelope_ended(stdout) is ended


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (faults.Fault(500, 5), errors.NotAuthorisedHereError, "needs-local-administrator"),
        (faults.Fault(500, faults.MAX_SHELLS), errors.WindowsError, "quota-exceeded"),
        (faults.Fault(500, faults.MAX_SHELL_USERS), errors.WindowsError, "quota-exceeded"),
        (faults.Fault(500, faults.NOT_ENOUGH_QUOTA), errors.WindowsError, "quota-exceeded"),
        (faults.Fault(500, faults.INVALID_SELECTORS), errors.UnreachableError, "connection-lost"),
        (faults.Fault(400), errors.UnreachableError, "connection-lost"),
        (faults.Fault(404), errors.UnreachableError, "winrm-closed"),
        (faults.Fault(503), errors.UnreachableError, "winrm-closed"),
        (faults.Fault(413), errors.WindowsError, "too-large"),
        (faults.Fault(500, 4711, "w:EncodingLimit"), errors.WindowsError, "too-large"),
        (faults.Fault(500), errors.WindowsError, "windows-failed"),
        (faults.Fault(500, 4711, reason="Sonderfall"), errors.WindowsError, "windows-failed"),
        (faults.Fault(500, faults.FILE_NOT_FOUND), errors.ScriptFailedError, "unsupported-os"),
    ],
)
def test_refusals_become_errors_with_a_code(fault: faults.Fault, kind: type[Exception], code: str) -> None:
    error = faults.error_of(fault, "srv1")
    assert isinstance(error, kind)
    assert error.code == code


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b"<a/>", b"<?xml version='1.0' encoding='nope'?><a/>"])
def test_body_that_is_no_fault_is_read_as_none(body: bytes) -> None:
    assert faults.parse_fault(500, body) == faults.Fault(500)


def test_error_lines_of_clixml_are_read_and_progress_is_not() -> None:
    # Lesson 58: shown to a person, never decided upon.
    clixml = (
        b"#< CLIXML\r\n"
        b'<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04">'
        b'<Obj S="progress" RefId="0"><MS><S N="x">Loading</S></MS></Obj>'
        b'<S S="verbose">chatter</S><S S="Error">no such thing_x000D__x000A_</S><S S="Error">at line 1</S></Objs>'
    )
    assert faults.error_text(clixml) == "no such thing\nat line 1"
    assert faults.error_text(b"plain\r\n") == "plain"
    assert "broken" in faults.error_text(b"#< CLIXML\r\n<Objs broken")


class Kept(Transport):
    """What pywinrm would have sent."""

    def __init__(self) -> None:
        self.message = ""

    def send_message(self, message):
        self.message = message
        raise ConnectionError


@pytest.mark.parametrize("operation", ["create", "command", "send", "end", "receive", "terminate", "delete"])
def test_message_is_the_one_that_pywinrm_writes(operation) -> None:
    shell, command, data = 'S<&"1', "C>'2", b"some data"
    protocol = Protocol("http://unused.invalid", transport="ntlm", username="-", password="-", operation_timeout_sec=7)
    protocol.transport = kept = Kept()
    calls = {
        "create": lambda: protocol.open_shell(codepage=65001, idle_timeout="PT1800S"),
        "command": lambda: protocol.run_command(
            shell, COMMAND, ARGUMENTS, console_mode_stdin=False, skip_cmd_shell=True
        ),
        "send": lambda: protocol.send_command_input(shell, command, data),
        "end": lambda: protocol.send_command_input(shell, command, data, end=True),
        "receive": lambda: protocol.get_command_output_raw(shell, command),
        "terminate": lambda: protocol.cleanup_command(shell, command),
        "delete": lambda: protocol.close_shell(shell, close_session=False),
    }
    with pytest.raises(ConnectionError):
        calls[operation]()
    theirs, ours = (
        canonicalize(re.sub("uuid:[0-9a-f-]{36}", "uuid:", text))
        for text in (kept.message, render(operation, 7, shell, command, data).decode())
    )
    assert ours == theirs


def test_each_message_has_an_id_of_its_own() -> None:
    assert render("delete", 1, "S") != render("delete", 1, "S")
