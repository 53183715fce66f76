"""One logon: over all spellings of an account, over all doors and controllers."""

from __future__ import annotations

import select
import socket

import pytest

from msp_sdk.directory.doors import Door
from msp_sdk.directory.session import DirectoryOptions, LogonWalk, open_session
from msp_sdk.errors import BindRejectedError, DirectoryError, LogonNotAllowedError, UnreachableError
from msp_sdk.models.credential import Credential, account_of
from msp_sdk.models.domain import DomainController
from msp_sdk.network.logons import LogonLedger
from msp_sdk.secret import Secret

DOMAIN = "corp.example"


def typed(username: str, **more: str | None) -> Credential:
    return Credential.typed(username, Secret("x"), **{"domain_name": DOMAIN, **more})


@pytest.fixture
def ledger(tmp_path):
    return LogonLedger(tmp_path / "logons.db")


@pytest.mark.parametrize(
    "spelling",
    ["svc", "SVC@corp.example", "svc@CORP.EXAMPLE.", "svc@Corp", r"CORP\svc", r"corp\Svc", r"corp.example\svc"],
)
@pytest.mark.parametrize("netbios_name", [None, "CORP"])
def test_every_spelling_of_a_typed_account_is_one_account(ledger, spelling, netbios_name):
    with ledger.attempt(typed("svc"), place="controller", host="dc1") as attempt:
        attempt.refused("wrong-password")
    again = typed(spelling, domain_name="Corp.Example.", netbios_name=netbios_name)
    with pytest.raises(LogonNotAllowedError), ledger.attempt(again, place="controller", host="dc1"):
        pytest.fail("the attempt was allowed")


@pytest.mark.parametrize("spelling", [r"OTHER\svc", "svc@other", "svc@clinic.com", r"CORP\svc", "svc"])
@pytest.mark.parametrize("names", [(None, "CORP"), ("CORP", None)])
def test_a_typed_account_is_the_same_one_whether_the_short_name_is_known_this_time_or_not(ledger, spelling, names):
    # It comes from a ping by UDP, which is answered one time and not the next.
    first, again = (typed(spelling, netbios_name=name) for name in names)
    with ledger.attempt(first, place="controller", host="dc1") as attempt:
        attempt.refused("wrong-password")
    with pytest.raises(LogonNotAllowedError), ledger.attempt(again, place="controller", host="dc1"):
        pytest.fail("the attempt was allowed")


@pytest.mark.parametrize("other", [r".\svc", "svc2", "svc@clinic.com", r"clinic.com\svc"])
def test_a_typed_account_that_cannot_be_the_same_has_a_logon_of_its_own(other):
    assert typed(other).ledger_key != typed("svc").ledger_key
    assert typed("svc", domain_name="clinic.com").ledger_key != typed("svc").ledger_key


@pytest.mark.parametrize(
    ("more", "same"),
    [
        ({"domain_name": "Corp.Example."}, True),
        ({"domain_name": "clinic.com"}, False),
        ({"domain_name": None, "host": "srv1"}, False),
        ({"username": r"CORP\svc", "netbios_name": "CORP"}, True),
        ({"username": r"OTHER\svc", "netbios_name": "CORP"}, False),
        ({"password": Secret("y")}, False),
    ],
)
def test_one_logon_is_one_account_of_one_domain_with_one_password(more, same):
    given = {"username": "svc", "password": Secret("x"), "domain_name": DOMAIN, **more}
    assert typed("SVC").is_same_logon(Credential.typed(**given)) is same


def test_accounts_of_one_name_on_two_hosts_are_two():
    hosts = [typed("svc", domain_name=None, host=host) for host in ("srv1", "SRV1", "srv2")]
    assert [hosts[0].is_same_logon(other) for other in hosts] == [True, True, False]


@pytest.mark.parametrize("other", ["svc@clinic.com", "svc@other", r"OTHER\svc", r".\svc", "svc2"])
def test_an_account_of_elsewhere_is_another_account(other):
    assert account_of(other, DOMAIN, "CORP") == other.casefold()


def open_by(listener: socket.socket, ledger: LogonLedger, walk: LogonWalk, **more: object) -> None:
    port = listener.getsockname()[1]
    options = DirectoryOptions(connect_timeout_s=1.0, receive_timeout_s=1.0, ldaps_port=port, allow_ntlm=True, **more)
    controller = DomainController(f"dc1.{DOMAIN}", port, ("127.0.0.1",))
    with pytest.raises(DirectoryError):
        open_session(controller, typed("svc"), ledger=ledger, options=options, walk=walk)


def test_a_port_where_nobody_answers_is_tried_once_whatever_ways_in_it_has(ledger):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
        closed.close()
        walk = LogonWalk()
        with socket.socket() as placeholder:
            # It keeps the port, and takes no connection.
            placeholder.bind(address)
            open_by(placeholder, ledger, walk)
    with pytest.raises(DirectoryError) as known:
        walk.check(Door("ntlm", *address))
    assert known.value.context["door"] == f"ldaps 127.0.0.1:{address[1]}"


@pytest.mark.parametrize("code", ["no-common-cipher", "kerberos-refused", "clock-skew", "netbios-unknown"])
def test_ntlm_does_not_follow_the_no_of_another_controllers_kdc(ledger, code):
    walk = LogonWalk()
    walk.learn(Door("kerberos", "127.0.0.9", 389), BindRejectedError("no.", code=code))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        open_by(listener, ledger, walk, doors=("kerberos", "ntlm"))
        assert select.select([listener], [], [], 0)[0] == []


def test_a_logon_that_nobody_waits_for_does_not_begin(ledger):
    walk = LogonWalk()
    walk.cancelled.set()
    where = {"place": "controller", "host": "dc1", "cancelled": walk.cancelled}
    with pytest.raises(UnreachableError), ledger.attempt(typed("svc"), **where):
        pytest.fail("the attempt was allowed")
