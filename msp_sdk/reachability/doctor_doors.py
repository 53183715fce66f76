"""What a host's doors showed, judged: ports, TLS, WinRM, clocks. No I/O.

Example:
    >>> from msp_sdk.windows.doors import Door
    >>> look_at_winrm([DoorLook(Door(5985, tls=False), status=503, server="Microsoft-HTTPAPI/2.0")]).code
    'winrm-closed'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msp_sdk.errors import MspError, UnreachableError, WrongHostError
from msp_sdk.models.finding import Finding, fine, not_looked_at, remark, trouble
from msp_sdk.models.reason import reason, reason_of
from msp_sdk.network import probe
from msp_sdk.reachability.diagnosis import Sign, diagnose
from msp_sdk.reachability.doctor_look import CertificateLook, DoorLook
from msp_sdk.windows.channel import CERTIFICATE_REASONS

SKEW_ALLOWED_S = 300.0
_EXPIRES_SOON = timedelta(days=14)
_OLD_TLS = ("SSLv3", "TLSv1", "TLSv1.1")
_SPOKEN = frozenset({"negotiate", "kerberos", "ntlm"})
_WINDOWS = "microsoft-httpapi"
_PROXY_STATUS = frozenset({407, 502, 504})
_OK, _UNAUTHORISED, _NOT_FOUND, _UNAVAILABLE, _SERVER_ERROR = 200, 401, 404, 503, 500


# Ports.


def look_at_ports(knocks: Sequence[probe.Door], life: Sequence[Sign] = ()) -> Finding:
    """Which doors stand open, and what their silence means (lesson 56: silence is never called off).

    Args:
        knocks: At the doors of WinRM that may be used, of all addresses, in their order.
        life: Other signs of life, where none of them stood open.
    """
    found = diagnose(knocks, life)
    evidence: dict[str, object] = {
        "signs": [
            {"kind": sign.kind, "address": sign.address, "port": sign.port, "said": sign.said, "detail": sign.detail}
            for sign in found.evidence
        ],
        "is_on": found.is_on,
    }
    address = open_address(knocks)
    if address is not None:
        evidence["address"] = address
        return fine("ports", f"{_states([knock for knock in knocks if knock.address == address])}.", evidence)
    code = found.reason or "internal"
    shown = _states(knocks)
    alive = [_SIGNS[sign.kind].format(sign.port, sign.said) for sign in life if sign.is_alive]
    also = f" But {' and '.join(dict.fromkeys(alive))}." if alive else ""
    return trouble("ports", code, f"{shown}.{also} {reason(code).title}", evidence)


def open_address(knocks: Sequence[probe.Door]) -> str | None:
    """The first address at which a door stands open, as the work takes it."""
    return next((knock.address for knock in knocks if knock.state == "open"), None)


def _states(knocks: Sequence[probe.Door]) -> str:
    parts = []
    for address in dict.fromkeys(knock.address for knock in knocks):
        words = [f"{knock.port} {_WORDS[knock.state]}" for knock in knocks if knock.address == address]
        parts.append(f"{address}: {', '.join(words)}")
    return "; ".join(parts) or "no port was tried"


_WORDS = {
    "open": "open",
    "refused": "refused",
    "silent": "silent",
    "failed": "not tried",
    "excluded": "excluded by a person",
}
_SIGNS = {"tcp": "port {} is {}", "ping": "it answers a ping", "neighbour": "its network card answers"}


# TLS.


def look_at_tls(look: DoorLook, error: MspError | None, *, passed_by: bool = False) -> Finding:
    """What TLS shows, and whether the work would take it.

    Args:
        look: At the door of HTTPS.
        error: What the work's own check says; None when it believes the certificate.
        passed_by: Another door can be used instead, so that trouble is only a remark.
    """
    certificate = look.certificate
    evidence: dict[str, object] = {
        "port": look.door.port,
        "version": look.tls_version,
        "certificate": None if certificate is None else _plain(certificate),
        "detail": look.detail,
    }
    if error is None:
        return _believed(look, evidence)
    code, title, remedy = _why_not(look, error)
    if passed_by:
        return remark("tls", code, title, evidence, remedy=remedy)
    return trouble("tls", code, title, evidence, remedy=remedy)


def _believed(look: DoorLook, evidence: Mapping[str, object]) -> Finding:
    certificate = look.certificate
    if certificate is None:
        return fine("tls", f"{look.tls_version or 'TLS'}; the certificate is believed.", evidence)
    until = f"{certificate.not_after:%Y-%m-%d}"
    if certificate.not_after - look.asked_at < _EXPIRES_SOON:
        return remark("tls", "certificate-expired", f"The certificate is believed, but only until {until}.", evidence)
    return fine("tls", f"{look.tls_version}; the certificate is believed, and valid until {until}.", evidence)


def _why_not(look: DoorLook, error: MspError) -> tuple[str, str, str | None]:  # noqa: PLR0911 (one return a reason)
    """Code, title, and a remedy where there is a better one than the reason's own."""
    port = look.door.port
    certificate = look.certificate
    if isinstance(error, WrongHostError):
        names = ", ".join(certificate.names[:3]) if certificate is not None else ""
        return "wrong-host", f"The certificate on {port} is for {names or 'nobody'}: another machine.", None
    if error.code in CERTIFICATE_REASONS and certificate is not None:
        return _why_unbelieved(certificate, look.asked_at, error)
    if look.tls_version in _OLD_TLS:
        return "tls-too-old", f"The host speaks {look.tls_version} on {port}, and nothing newer.", None
    if look.silence == "no-tls":
        title = f"What answers on {port} speaks no TLS ({look.detail})."
        return "encryption-refused", title, f"Find out what listens on {port}; give WinRM its HTTPS listener there."
    if look.silence == "silent":
        return "winrm-silent", f"Port {port} is open, but nothing answers the TLS handshake.", None
    if isinstance(error, UnreachableError):
        title = f"The host hung up in the TLS handshake on {port}: as a rule no certificate is bound there."
        return "connection-lost", title, "Bind a certificate to WinRM's HTTPS listener."
    entry = reason_of(error)
    return entry.code, error.detail, entry.remedy


def _why_unbelieved(certificate: CertificateLook, now: datetime, error: MspError) -> tuple[str, str, str | None]:
    if now > certificate.not_after:
        return "certificate-expired", f"The certificate has expired: {certificate.not_after:%Y-%m-%d %H:%M} UTC.", None
    if now < certificate.not_before:
        return (
            "certificate-expired",
            f"The certificate begins to be valid only {certificate.not_before:%Y-%m-%d}.",
            None,
        )
    if error.code == "certificate-weak":
        how = f"{certificate.key}, {certificate.signature or 'no digest'}"
        return "certificate-weak", f"The certificate is too weak to be believed ({how}).", None
    if certificate.self_signed:
        title = f"The certificate is signed by itself, and not listed (SHA-256 {certificate.sha256})."
        return "certificate-untrusted", title, None
    title = f"The certificate is signed by {certificate.issuer}, which this site does not trust."
    return "certificate-untrusted", title, None


def _plain(certificate: CertificateLook) -> dict[str, object]:
    return {
        "sha256": certificate.sha256,
        "names": list(certificate.names),
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "self_signed": certificate.self_signed,
        "signature": certificate.signature,
        "key": certificate.key,
    }


# WinRM.


def look_at_winrm(looks: Sequence[DoorLook]) -> Finding:
    """What WinRM offers to somebody without a logon.

    Args:
        looks: At the open doors, the one first that the work would take.
    """
    if not looks:
        return not_looked_at("winrm", "no door of WinRM can be used")
    evidence = {
        "doors": [
            {
                "port": look.door.port,
                "status": look.status,
                "schemes": list(look.schemes),
                "server": look.server,
                "via": look.via,
                "silence": look.silence,
                "detail": look.detail,
            }
            for look in looks
        ]
    }
    wrong = _what_is_wrong(looks[0])
    if wrong is None:
        return fine("winrm", f"WinRM on {looks[0].door.port} offers {', '.join(looks[0].schemes)}.", evidence)
    code, title, remedy = wrong
    return trouble("winrm", code, title, evidence, remedy=remedy)


def _what_is_wrong(look: DoorLook) -> tuple[str, str, str | None] | None:  # noqa: PLR0911 (one return a reason)
    port = look.door.port
    windows = look.server.casefold().startswith(_WINDOWS)
    who = look.server or "a server without a name"
    if look.silence is not None:
        return _SILENCES[look.silence][0], f"Port {port} {_SILENCES[look.silence][1]}.", None
    if look.via or look.status in _PROXY_STATUS:
        return "proxy-between", f"A proxy answers on {port} ({look.via or who}).", None
    if look.status == _UNAUTHORISED and not _SPOKEN.isdisjoint(scheme.casefold() for scheme in look.schemes):
        return None
    if look.status == _UNAUTHORISED and windows:
        return "no-mechanism", f"WinRM on {port} offers {', '.join(look.schemes) or 'nothing'} alone.", None
    if look.status == _NOT_FOUND and windows:
        title = f"Windows answers on {port}, but WinRM has no listener there."
        return "winrm-closed", title, "Make a listener: `winrm quickconfig`, or WinRM's Group Policy."
    if look.status == _UNAVAILABLE and (windows or not look.server):
        title = f"Windows answers on {port}, but the WinRM service is stopped or starting."
        return "winrm-closed", title, "Start the WinRM service, and let it start by itself (delayed)."
    if look.status == _OK:
        return "not-winrm", f"What answers on {port} ({who}) asks for no logon: WinRM always does.", None
    if windows and (look.status or 0) >= _SERVER_ERROR:
        return "windows-failed", f"WinRM on {port} fails with HTTP status {look.status}.", None
    return "not-winrm", f"What answers on {port} ({who}, HTTP status {look.status}) is no WinRM.", None


_SILENCES = {
    "no-connection": ("connection-lost", "was open and takes no connection any more"),
    "silent": ("winrm-silent", "is open, but nothing answers a request"),
    "closed": ("connection-lost", "is open, but whatever listens there hangs up on a request"),
    "no-tls": ("encryption-refused", "speaks no TLS"),
    "no-http": ("not-winrm", "is open, but what answers speaks no HTTP"),
}


# Clocks.


def look_at_clock(
    looks: Sequence[DoorLook], controllers: Mapping[str, float | None], *, kerberos: bool = True
) -> Finding:
    """How far clocks are apart. Kerberos ends at five minutes.

    Args:
        looks: At the open doors.
        controllers: By name, how far a controller's or KDC's clock is ahead of ours, in seconds; None: it did not say.
        kerberos: False when no account of a domain is to log on: then it is only a remark.
    """
    dated = [look for look in looks if look.date is not None]
    host_s = None
    if dated and dated[0].date is not None:
        host_s = (dated[0].date - dated[0].asked_at).total_seconds()
    known = {name: skew_s for name, skew_s in controllers.items() if skew_s is not None}
    evidence: dict[str, object] = {
        "host_ahead_s": None if host_s is None else round(host_s),
        "controllers_ahead_s": {name: None if s is None else round(s) for name, s in controllers.items()},
    }
    if host_s is None and not known:
        return not_looked_at("clock", "nobody told the time")
    far = {name: skew_s for name, skew_s in known.items() if abs(skew_s) > SKEW_ALLOWED_S}
    host_is_far = host_s is not None and abs(host_s) > SKEW_ALLOWED_S
    if not far and not host_is_far:
        told = ([("the host", host_s)] if host_s is not None else []) + list(known.items())[:2]
        # HTTP's Date has whole seconds.
        words = ", ".join(f"{name} within {max(1, round(abs(skew_s)))} s" for name, skew_s in told)
        return fine("clock", f"The clocks agree: {words}.", evidence)
    evidence["explains_certificate"] = host_is_far and any(_explains(look) for look in dated)
    title, remedy = _whose_clock(host_s, known, far)
    if kerberos or evidence["explains_certificate"]:
        return trouble("clock", "clock-skew", title, evidence, remedy=remedy)
    return remark("clock", "clock-skew", title, evidence, remedy=remedy)


def _whose_clock(host_s: float | None, known: Mapping[str, float], far: Mapping[str, float]) -> tuple[str, str]:
    """Whose clock is wrong, and what to do; where two of three agree, it is the third one's."""
    if far:
        name, skew_s = next(iter(far.items()))
        if host_s is not None and abs(host_s) > SKEW_ALLOWED_S and abs(host_s - skew_s) <= SKEW_ALLOWED_S:
            title = f"This machine's clock is {_apart(-skew_s)} those of the host and of {name}."
            return title, "Correct the time of this machine."
        title = f"The clock of {name} is {_apart(skew_s)} this machine's."
        if host_s is not None and abs(host_s) <= SKEW_ALLOWED_S:
            return title, f"Correct the time of {name} (`w32tm /resync` there); the host agrees with this machine."
        return title, "Correct the time of this machine, or of the controller if that one is wrong."
    assert host_s is not None  # noqa: S101 (one of both is far)
    title = f"The host's clock is {_apart(host_s)} this machine's."
    if known:
        return title, "Correct the time of the host (`w32tm /resync` there); the controllers agree with this machine."
    return title, "Correct the time of the host (`w32tm /resync` there), or of this machine if that one is wrong."


def _explains(look: DoorLook) -> bool:
    """True when the certificate is valid by the host's clock, and not by ours."""
    if look.certificate is None or look.date is None:
        return False
    first, last = look.certificate.not_before, look.certificate.not_after
    return first <= look.date <= last and not first <= look.asked_at <= last


def _apart(seconds: float) -> str:
    """How far a clock is from another one, as it goes before that one's name."""
    size = abs(seconds)
    number, unit = next(((size / of, name) for of, name in _UNITS if size >= 2 * of), (size, "s"))
    return f"{number:.0f} {unit} {'ahead of' if seconds > 0 else 'behind'}"


_UNITS = ((86400, "days"), (3600, "h"), (60, "min"))
