"""Kerberos: whom a user name means, the private settings, and a worker that always ends."""

from __future__ import annotations

import configparser
import contextlib
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from msp_sdk.directory.doors import Door, logon_doors
from msp_sdk.directory.logon import LogonWalk
from msp_sdk.directory.sealed_logon import kerberos_principal
from msp_sdk.errors import DirectoryError
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import DomainController
from msp_sdk.network import kerberos
from msp_sdk.network.kdc_codes import judge_kdc
from msp_sdk.network.kdc_relay import KdcRelay
from msp_sdk.network.kerberos import KerberosLogon, is_installed, principal_of
from msp_sdk.network.kerberos_process import KerberosFailure, Principal, protocol_error, render_krb5_conf
from msp_sdk.secret import Secret
from tests.real import REQUIRED

needs_extra = pytest.mark.skipif(not is_installed() and not REQUIRED, reason="the extra `kerberos` is not installed")
SVC = Principal("svc", "CORP.EXAMPLE")


@pytest.mark.parametrize(
    ("username", "netbios", "expected"),
    [
        ("svc", None, SVC),
        # A UPN may begin with the name of another account, which would get the strike.
        ("svc@corp.example", None, Principal("svc@corp.example", "CORP.EXAMPLE", enterprise=True)),
        (r"corp\svc", "CORP", SVC),
        (r"corp.example\svc", "CORP", SVC),
        (r"corp.example\svc", None, SVC),
        # Nobody knows whose it is.
        (r"CORP\svc", None, None),
        (r"OTHER\svc", None, None),
        (r"OTHER\svc", "CORP", None),
        (r"other.example\svc", None, None),
        (r".\svc", None, None),
        ("", None, None),
        ("@corp.example", None, None),
        ("svc@clinic.com", None, Principal("svc@clinic.com", "CORP.EXAMPLE", enterprise=True)),
        ("a@b@corp.example", None, Principal("a@b@corp.example", "CORP.EXAMPLE", enterprise=True)),
    ],
)
def test_a_user_name_means_one_principal_or_none(username, netbios, expected):
    assert principal_of(username, domain_name="corp.example", netbios_name=netbios) == expected


@pytest.mark.parametrize(("address", "kdc"), [("10.0.0.5", "10.0.0.5:88"), ("fd00::5", "[fd00::5]:88")])
def test_the_private_settings_name_one_kdc_by_address_and_look_nothing_up(address, kdc):
    text = render_krb5_conf("CORP.EXAMPLE", address)
    # A second KDC would be asked again with a password that was refused.
    assert "primary_kdc" not in text
    assert "master_kdc" not in text
    assert text.count("kdc = ") - text.count("dns_lookup_kdc = ") == 1
    assert f"    kdc = {kdc}\n" in text
    parser = configparser.ConfigParser()
    parser.read_string(text.partition("[realms]")[0])
    defaults = parser["libdefaults"]
    for name in ("dns_lookup_kdc", "dns_lookup_realm", "dns_canonicalize_hostname", "rdns"):
        assert defaults[name] == "false"
    assert defaults["udp_preference_limit"] == "1"
    assert defaults["default_ccache_name"] == "MEMORY:"


def test_the_kdcs_own_number_is_told_from_the_librarys_complaints():
    assert protocol_error(-1765328360) == 24
    # gssapi says the same without its sign.
    assert protocol_error(2529638919) == 7
    assert protocol_error(-1765328228) is None
    # The realm that a KDC named for an enterprise name is not one that we know.
    assert protocol_error(-1765328230) == 68
    assert protocol_error(None) is None


class Kdc:
    """A listener that takes requests and never answers."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.heard = threading.Event()
        self.bytes = b""
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def close(self):
        with contextlib.suppress(OSError):
            # One that nobody has called yet waits for a call.
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        self.thread.join()
        self.listener.close()

    def serve(self):
        client, _ = self.listener.accept()
        with client:
            self.bytes = client.recv(65536)
            self.heard.set()
            # Until the other side gives up.
            with contextlib.suppress(OSError):
                while client.recv(65536):
                    pass


@pytest.fixture
def silent_kdc():
    kdc = Kdc()
    yield kdc
    kdc.close()


def folder_of(process):
    """The private folder of a worker."""
    while True:
        # Until it has become the worker, it shows what its parent was started with.
        for entry in (Path(f"/proc/{process.pid}") / "environ").read_bytes().split(b"\0"):
            name, _, value = entry.decode().partition("=")
            if name == "KRB5_CONFIG":
                return Path(value).parent
        time.sleep(0.01)


@needs_extra
def test_a_silent_kdc_ends_at_the_deadline_and_leaves_nothing(silent_kdc):
    logon = KerberosLogon(SVC, kdc="127.0.0.1", port=silent_kdc.port, service="ldap/dc1.corp.example", deadline_s=2.0)
    with logon:
        process, folder = logon._worker.process, folder_of(logon._worker.process)
        assert stat.S_IMODE((folder / "krb5.conf").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert logon.take_ticket(Secret("hunter2-hunter2")) == KerberosFailure("ticket", None, key_used=False)
        assert silent_kdc.heard.is_set()
    assert process.poll() is not None
    assert not folder.exists()
    assert b"hunter2" not in silent_kdc.bytes


@needs_extra
def test_the_password_is_in_no_argument_and_no_environment_of_the_worker(silent_kdc):
    logon = KerberosLogon(SVC, kdc="127.0.0.1", port=silent_kdc.port, service="ldap/dc1.corp.example", deadline_s=2.0)
    with logon:
        asking = threading.Thread(target=logon.take_ticket, args=(Secret("hunter2-hunter2"),))
        asking.start()
        assert silent_kdc.heard.wait(20)
        about = Path(f"/proc/{logon._worker.process.pid}")
        assert b"hunter2" not in (about / "cmdline").read_bytes() + (about / "environ").read_bytes()
        asking.join()
    assert "hunter2" not in repr(vars(logon)) + repr(vars(logon._worker))


@needs_extra
def test_a_worker_that_dies_is_a_failure_and_no_hang(silent_kdc):
    logon = KerberosLogon(SVC, kdc="127.0.0.1", port=silent_kdc.port, service="ldap/dc1.corp.example", deadline_s=60.0)
    with logon:
        logon._worker.process.kill()
        assert logon.take_ticket(Secret("x")) == KerberosFailure("ticket", None, key_used=False)


@needs_extra
def test_a_worker_is_heard_when_more_than_a_thousand_descriptors_are_open(silent_kdc):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 1200:
        pytest.skip("no more than a thousand descriptors may be open here")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with KerberosLogon(
            SVC, kdc="127.0.0.1", port=silent_kdc.port, service="ldap/dc1.corp.example", deadline_s=60.0
        ) as logon:
            assert logon._worker.process.stdout.fileno() > 1024
            logon._worker.process.kill()
            assert logon.take_ticket(Secret("x")) == KerberosFailure("ticket", None, key_used=False)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@needs_extra
def test_a_machine_without_a_descriptor_left_is_a_kdc_out_of_reach_and_leaves_nothing(tmp_path, monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    logon = KerberosLogon(SVC, kdc="127.0.0.1", service="ldap/dc1.corp.example", deadline_s=5.0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 2, before[1]))
    try:
        with logon:
            assert logon.take_ticket(Secret("x")) == KerberosFailure("ticket", None, key_used=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert list(tmp_path.iterdir()) == []


def call_kdc(address, message):
    with socket.create_connection(address, 5) as caller:
        caller.sendall(len(message).to_bytes(4, "big") + message)
        return caller.recv(65536)


def test_a_request_to_a_kdc_goes_out_once_and_never_by_udp():
    # lesson 32: a slow KDC would be sent the same proof of a wrong password again, and count each.
    heard = []

    def serve(listener):
        for _ in range(2):
            client, _ = listener.accept()
            with client:
                heard.append(client.recv(65536))
                client.sendall(b"\0\0\0\x02ok")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with KdcRelay("127.0.0.1", listener.getsockname()[1]) as relay:
            relay.begin(20.0)
            assert call_kdc(relay.address, b"first") == b"\0\0\0\x02ok"
            assert call_kdc(relay.address, b"first") == b""
            assert call_kdc(relay.address, b"second") == b"\0\0\0\x02ok"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
                caller.connect(relay.address)
                caller.send(b"first")
                caller.settimeout(5)
                with pytest.raises(ConnectionRefusedError):
                    caller.recv(1)
        thread.join()
    assert heard == [b"\0\0\0\x05first", b"\0\0\0\x06second"]


@needs_extra
def test_the_library_is_told_of_the_relay_alone(silent_kdc):
    logon = KerberosLogon(SVC, kdc="127.0.0.1", port=silent_kdc.port, service="ldap/dc1.corp.example", deadline_s=5.0)
    with logon:
        text = (folder_of(logon._worker.process) / "krb5.conf").read_text()
    assert f":{silent_kdc.port}" not in text
    assert "kdc = 127.0.0.1:" in text


CONTROLLER = DomainController("dc1.corp.example", 389, ("127.0.0.1",))


def kerberos_at(controller=CONTROLLER, username="svc@corp.example", **more):
    door = Door("kerberos", controller.addresses[0], controller.port)
    credential = Credential.typed(username, Secret("x"), domain_name="corp.example", **more)
    with pytest.raises(DirectoryError) as caught:
        kerberos_principal(controller, door, credential)
    return caught.value


@needs_extra
def test_kerberos_is_passed_over_before_anything_is_sent_where_it_cannot_apply():
    assert kerberos_at(DomainController("dc1.corp.example", 3890, ("127.0.0.1",))).code == "kdc-unreachable"
    assert kerberos_at(DomainController("127.0.0.1", 389, ("127.0.0.1",))).code == "no-service-principal"
    assert kerberos_at(username=r".\svc").code == "other-domain-account"
    assert kerberos_at(username=r"OTHER\svc", netbios_name="CORP").code == "other-domain-account"
    # It may well be ours, beside a KDC that would take it: NTLM is no way around that.
    unknown = kerberos_at(username=r"CORP\svc")
    assert unknown.code == "netbios-unknown"
    walk = LogonWalk()
    walk.learn(Door("kerberos", "127.0.0.1", 389), unknown)
    assert walk.kdc_said_no


@needs_extra
def test_broken_settings_of_the_machine_are_told_before_anything_is_sent(tmp_path):
    (tmp_path / "krb5.conf").write_text("[libdefaults\n garbage = {\n")
    program = "from msp_sdk.network.kerberos import can_seal_here; print(can_seal_here())"
    ends = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "KRB5_CONFIG": str(file)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for file in (tmp_path / "krb5.conf", tmp_path / "absent.conf")
    ]
    assert ends == ["False", "True"]


class RefusingKdc:
    """Answers every request with one error."""

    def __init__(self, answer):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, args=(answer,), daemon=True)
        self.thread.start()

    def serve(self, answer):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                with client:
                    client.recv(65536)
                    client.sendall(len(answer).to_bytes(4, "big") + answer)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()


@needs_extra
def test_an_answer_that_the_library_makes_nothing_of_is_not_a_kdc_out_of_reach():
    kdc = RefusingKdc(b"no Kerberos at all")
    with KerberosLogon(SVC, kdc="127.0.0.1", port=kdc.port, service="ldap/dc1.corp.example", deadline_s=10.0) as logon:
        failure = logon.take_ticket(Secret("x"))
    kdc.close()
    assert failure.answered
    assert judge_kdc(failure.number, key_used=failure.key_used, answered=failure.answered).code == "kerberos-refused"


@needs_extra
def test_the_worker_finds_its_packages_where_only_our_own_path_names_them(silent_kdc, tmp_path):
    # As wrappers that set PYTHONPATH do; the worker's environment is empty.
    program = textwrap.dedent(f"""
        from msp_sdk.network.kerberos import KerberosLogon, is_installed
        from msp_sdk.network.kerberos_process import Principal
        from msp_sdk.secret import Secret
        assert is_installed()
        who = Principal("svc", "CORP.EXAMPLE")
        with KerberosLogon(who, kdc="127.0.0.1", port={silent_kdc.port}, service="ldap/dc1", deadline_s=3.0) as logon:
            print(logon.take_ticket(Secret("x")).step)
    """)
    path = os.pathsep.join([str(Path(kerberos.__file__).parents[2]), *filter(os.path.isabs, sys.path)])
    bare = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    done = subprocess.run(
        [str(bare), "-c", program],
        env={"PYTHONPATH": path, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "ticket\n", done.stderr
    assert silent_kdc.heard.is_set()


def test_the_doors_are_tried_kind_after_kind_and_tls_ports_take_tls_alone():
    two = DomainController("dc1.corp.example", 389, ("10.0.0.1", "fd00::1"))
    assert [(door.kind, door.host, door.port) for door in logon_doors(two)] == [
        ("kerberos", "10.0.0.1", 389),
        ("kerberos", "fd00::1", 389),
        ("ldaps", "10.0.0.1", 636),
        ("ldaps", "fd00::1", 636),
        ("starttls", "10.0.0.1", 389),
        ("starttls", "fd00::1", 389),
        ("ntlm", "10.0.0.1", 389),
        ("ntlm", "fd00::1", 389),
    ]
    assert logon_doors(DomainController("dc1.corp.example", 636)) == (Door("ldaps", "dc1.corp.example", 636),)


def test_the_extra_is_looked_for_without_importing_it():
    assert isinstance(kerberos.is_installed(), bool)
