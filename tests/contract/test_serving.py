"""``msp central serve`` as a process: over TLS, behind a proxy, and how it ends."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from central_app.opening import bootstrap
from central_app.settings import make_settings

PASSPHRASE = b"secret"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cert.pem`` for 127.0.0.1, its ``key.pem`` and the key under a passphrase."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "central")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    for file, protection in (
        ("key.pem", serialization.NoEncryption()),
        ("locked.pem", serialization.BestAvailableEncryption(PASSPHRASE)),
    ):
        text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
        (folder / file).write_bytes(text)
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    database = f"sqlite:///{folder}/central.db"
    return [sys.executable, "-m", "runners.cli", "central", "serve", "--database", database, "--port", "0", *more]


@contextmanager
def serving(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Central as a process, and its address. It must not be left running, and must not have complained."""
    process = subprocess.Popen(
        arguments(folder, *more), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http" in line, process.communicate(timeout=10)[1]
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate(timeout=10)


def api_key(folder: Path) -> str:
    return bootstrap(make_settings({}, database=f"sqlite:///{folder}/central.db"), "Contoso", "a@b.example").reveal()


def test_central_serves_over_tls_alone_and_says_so_in_every_address(tmp_path: Path, certificate: Path) -> None:
    key = api_key(tmp_path)
    tls = ("--tls-cert", str(certificate / "cert.pem"), "--tls-key", str(certificate / "key.pem"))
    with serving(tmp_path, *tls) as (_, url):
        assert url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        with httpx.Client(base_url=url, verify=trusted, trust_env=False) as client:
            opened = client.post("/api/session", json={"api_key": key})
            assert opened.status_code == 200
            assert "Secure" in opened.headers["set-cookie"]
            made = client.post(
                "/api/partners/me/provisions", json={}, headers={"X-CSRF-Token": opened.json()["csrf_token"]}
            ).json()
            assert made["qr_content"].endswith(url.replace(":", "%3A").replace("/", "%2F"))
        with httpx.Client(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                client.get(f"{url}/healthz")
            with pytest.raises(httpx.TransportError):
                client.get(url.replace("https", "http") + "/healthz")


@pytest.mark.parametrize("key", ["locked.pem", "cert.pem", "none.pem"])
def test_a_tls_key_that_cannot_be_used_is_said_at_once_and_nobody_is_asked(
    tmp_path: Path, certificate: Path, key: str
) -> None:
    more = ("--tls-cert", str(certificate / "cert.pem"), "--tls-key", str(certificate / key))
    ended = subprocess.run(
        arguments(tmp_path, *more), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("msp: ")
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "central.db").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_open_event_stream_does_not_hold_up_the_end(tmp_path: Path, number: int) -> None:
    key = api_key(tmp_path)
    with serving(tmp_path) as (process, url):
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=20) as client:
            site_id = client.post("/api/sites", json={"name": "Clinic"}).json()["site_id"]
            with client.stream("GET", f"/api/sites/{site_id}/events?after=0") as response:
                lines = response.iter_lines()
                while not next(lines).startswith("data:"):
                    pass
                begun = time.monotonic()
                os.kill(process.pid, number)
                # The stream ends as a stream should, not by a reset.
                for _ in lines:
                    pass
        assert process.wait(10) == 0
        assert time.monotonic() - begun < 3
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_request_that_runs_is_answered_before_the_end(tmp_path: Path) -> None:
    key = api_key(tmp_path)
    with serving(tmp_path) as (process, url):
        content = b"x" * 100
        package = {
            "name": "agent", "version": "1", "sha256": "0" * 64, "size_bytes": len(content),
            "manifest": {"service_name": "a", "display_name": "A", "install_folder": "C:\\A", "file_name": "a.exe"},
        }  # fmt: skip

        def slowly() -> Iterator[bytes]:
            yield content[:50]
            os.kill(process.pid, signal.SIGTERM)
            time.sleep(0.5)
            yield content[50:]

        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=20) as client:
            assert client.post("/api/packages", json=package).status_code == 201
            answered = client.put(f"/api/packages/{'0' * 64}", content=slowly())
        assert answered.json()["code"] == "digest-mismatch"
        assert process.wait(10) == 0
