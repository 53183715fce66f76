"""The clients that are compared: each reads every computer once and prints how many it saw.

Run as a process, ``python ldap_clients.py NAME``, with the place as JSON on stdin: its cost in time, processor and
memory is then the cost of that client alone. Imports stay inside the functions for that reason.

A place is ``{"host", "port", "page", "base", "filter", "attributes", "username", "password", "ca_file", "ca_pem"}``;
without a user name it is the replay, in clear. ``options`` are more of our own reader's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Place = dict[str, Any]


def _our_controller(place: Place) -> Any:
    from msp_sdk.models.domain import DomainController

    return DomainController(place["host"], place["port"], addresses=tuple(place["addresses"]))


def _our_credential(place: Place) -> Any:
    from msp_sdk.models.credential import Credential, TrustedCertificate
    from msp_sdk.secret import Secret

    trusted = (TrustedCertificate(ca_pem=place["ca_pem"]),)
    return Credential(
        "bench",
        1,
        "service_account",
        place["username"],
        lambda: Secret(place["password"]),
        trusted_certificates=trusted,
    )


def _our_options(place: Place) -> Any:
    from msp_sdk.directory.session import DirectoryOptions

    return DirectoryOptions(page_size=place["page"], **place.get("options", {}))


def _our_session(place: Place) -> Any:
    from msp_sdk.directory.session import open_anonymous, open_session
    from msp_sdk.network.logons import LogonLedger

    controller, options = _our_controller(place), _our_options(place)
    if not place["username"]:
        return open_anonymous(controller, options)
    ledger = LogonLedger(Path(place["ledger"]))
    return open_session(controller, _our_credential(place), ledger=ledger, options=options)


def ours_entries(place: Place) -> int:
    """Our reader, to entries of raw values."""
    session = _our_session(place)
    try:
        return sum(len(page) for page in session.pages(place["base"], place["filter"], place["attributes"]))
    finally:
        session.close()


def ours_computers(place: Place) -> int:
    """Our reader and our table of kinds, to computers; no more than a page of them is held."""
    from datetime import UTC, datetime

    from msp_sdk.enumeration.classify import classify

    session = _our_session(place)
    now = datetime.now(UTC)
    count = 0
    try:
        for page in session.pages(place["base"], place["filter"], place["attributes"]):
            for entry in page:
                classify(entry, domain_name="northvalley.test", now=now)
                count += 1
    finally:
        session.close()
    return count


def ours_dirsync(place: Place) -> int:
    """Our reader with the first round of DirSync as the full read."""
    from msp_sdk.directory.sync import read_dirsync

    session = _our_session(place)
    try:
        rounds = read_dirsync(session, place["base"], place["filter"], place["attributes"], b"")
        return sum(len(found.entries) for found in rounds)
    finally:
        session.close()


def _our_enumerator(place: Place) -> Any:
    from datetime import UTC, datetime

    from msp_sdk.enumeration.enumerator import ADEnumerator, EnumerationOptions
    from msp_sdk.models.domain import Domain
    from msp_sdk.network.logons import LogonLedger

    domain = Domain("northvalley.test", (_our_controller(place),), datetime.now(UTC))
    options = EnumerationOptions(directory=_our_options(place))
    return ADEnumerator(domain, _our_credential(place), ledger=LogonLedger(Path(place["ledger"])), options=options)


def ours_enumerate(place: Place) -> int:
    """What a user of the library calls: every computer as a value, and all of them kept."""
    import asyncio

    async def enumerate_all() -> int:
        async with _our_enumerator(place) as enumerator:
            found = await enumerator.enumerate()
            return len(found.computers) + found.service_accounts_count

    return asyncio.run(enumerate_all())


def ours_stream(place: Place) -> int:
    """What a user of the library calls who keeps none."""
    import asyncio

    async def stream_all() -> int:
        count = 0
        async with _our_enumerator(place) as enumerator:
            async for _ in enumerator.stream():
                count += 1
        return count

    return asyncio.run(stream_all())


def _ldap3_server(place: Place, **more: Any) -> Any:
    import ssl

    import ldap3

    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=place["ca_file"]) if place["username"] else None
    use_ssl = bool(place["username"])
    return ldap3.Server(place["host"], port=place["port"], use_ssl=use_ssl, tls=tls, connect_timeout=10, **more)


def ldap3_defaults(place: Place) -> int:
    """Plain ldap3 as its manual shows it."""
    import ldap3

    connection = ldap3.Connection(
        _ldap3_server(place), place["username"] or None, place["password"] or None, receive_timeout=120
    )
    if not connection.bind():
        raise SystemExit(str(connection.result))
    found = connection.extend.standard.paged_search(
        place["base"], place["filter"], attributes=place["attributes"], paged_size=place["page"], generator=True
    )
    return sum(entry["type"] == "searchResEntry" for entry in found)


def ldap3_tuned(place: Place) -> int:
    """Plain ldap3 with everything off that it can do without."""
    import ldap3

    connection = ldap3.Connection(
        _ldap3_server(place, get_info=ldap3.NONE),
        place["username"] or None,
        place["password"] or None,
        receive_timeout=120,
        check_names=False,
        return_empty_attributes=False,
        auto_range=False,
        fast_decoder=True,
    )
    if not connection.bind():
        raise SystemExit(str(connection.result))
    count, cookie = 0, None
    while True:
        connection.search(
            place["base"],
            place["filter"],
            attributes=place["attributes"],
            paged_size=place["page"],
            paged_cookie=cookie,
        )
        count += sum(entry["type"] == "searchResEntry" for entry in connection.response)
        cookie = connection.result["controls"]["1.2.840.113556.1.4.319"]["value"]["cookie"]
        if not cookie:
            return count


def python_ldap(place: Place) -> int:
    """python-ldap, a binding of OpenLDAP's library."""
    import ldap
    from ldap.controls import SimplePagedResultsControl

    scheme = "ldaps" if place["username"] else "ldap"
    connection = ldap.initialize(f"{scheme}://{place['host']}:{place['port']}")
    connection.set_option(ldap.OPT_REFERRALS, 0)
    if place["username"]:
        connection.set_option(ldap.OPT_X_TLS_CACERTFILE, place["ca_file"])
        connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
    connection.simple_bind_s(place["username"], place["password"])
    control = SimplePagedResultsControl(True, size=place["page"], cookie="")
    count = 0
    while True:
        number = connection.search_ext(
            place["base"], ldap.SCOPE_SUBTREE, place["filter"], place["attributes"], serverctrls=[control]
        )
        _, entries, _, controls = connection.result3(number)
        count += sum(dn is not None for dn, _ in entries)
        control.cookie = controls[0].cookie
        if not control.cookie:
            return count


def bonsai_sync(place: Place) -> int:
    """bonsai, another binding of OpenLDAP's library."""
    import bonsai

    scheme = "ldaps" if place["username"] else "ldap"
    client = bonsai.LDAPClient(f"{scheme}://{place['host']}:{place['port']}")
    client.set_server_chase_referrals(False)
    if place["username"]:
        client.set_ca_cert(place["ca_file"])
        client.set_credentials("SIMPLE", user=place["username"], password=place["password"])
    with client.connect() as connection:
        found = connection.paged_search(
            place["base"], bonsai.LDAPSearchScope.SUBTREE, place["filter"], place["attributes"], page_size=place["page"]
        )
        return sum(1 for _ in found)


CLIENTS: dict[str, Callable[[Place], int]] = {
    "ours, entries": ours_entries,
    "ours, computers": ours_computers,
    "ours, DirSync": ours_dirsync,
    "ours, enumerate()": ours_enumerate,
    "python-ldap": python_ldap,
    "bonsai": bonsai_sync,
    "ldap3 tuned": ldap3_tuned,
    "ldap3": ldap3_defaults,
}
# They are measured for their memory: the one gives no service accounts, which the others count.
MEMORY_CLIENTS = {"ours, stream()": ours_stream, "ours, enumerate()": ours_enumerate}
# They send a password, and so nothing to the replay in clear.
LIVE_ONLY = frozenset({"ours, DirSync", "ours, enumerate()"})
NEEDS = {"python-ldap": "ldap", "bonsai": "bonsai"}


def peak_rss_kib() -> int:
    """The most memory that this process had; a child's resource usage would count its parent's too."""
    fields: Iterator[str] = (
        line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM")
    )
    return int(next(fields).split()[1])


def main() -> None:
    """Read with the client that was named."""
    place = json.load(sys.stdin)
    count = (CLIENTS | MEMORY_CLIENTS)[sys.argv[1]](place)
    print(json.dumps({"count": count, "peak_rss_kib": peak_rss_kib()}))  # noqa: T201 (its answer)


if __name__ == "__main__":
    main()
