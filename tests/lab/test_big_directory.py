"""A directory of 10,000 computers: what we read is what ldapsearch reads, byte for byte."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msp_sdk.enumeration.classify import COMPUTER_ATTRIBUTES, COMPUTER_FILTER
from tests.lab.conftest import MANY
from tests.lab.controller import CONTROLLER, SambaLab, run_samba_script
from tests.lab.following import follower, read_raw
from tests.lab.ldif import Attributes, read_ldif
from tests.real import need

pytestmark = pytest.mark.samba

BASE = "DC=northvalley,DC=test"
# The controller itself is one more, and service accounts are computers to a filter.
ALL = MANY + 1
# Kerberos is tried first where it is to be had.
DOORS: dict[str, dict[str, Any]] = {"ldaps": {"port": 636}, "kerberos": {}}
Read = dict[str, tuple[str, Attributes]]


def by_guid(entries: Iterator[tuple[str, Attributes]]) -> Read:
    """By objectGUID, the values of an attribute in any order: a set has none."""
    return {
        attributes["objectguid"][0].hex(): (dn, {name: sorted(values) for name, values in attributes.items()})
        for dn, attributes in entries
    }


@pytest.fixture(scope="module")
def oracle(big_samba, tmp_path_factory) -> Read:
    """Every computer as ldapsearch reads it."""
    need("ldapsearch")
    folder = tmp_path_factory.mktemp("oracle")
    (folder / "ca.pem").write_text(big_samba.ca_pem, encoding="ascii")
    (folder / "password").write_text(big_samba.password, encoding="ascii")
    found = big_samba.run(
        *("env", f"LDAPTLS_CACERT={folder / 'ca.pem'}", "ldapsearch", "-LLL", "-x", "-E", "pr=500/noprompt"),
        *("-H", f"ldaps://{CONTROLLER}", "-D", big_samba.username, "-y", str(folder / "password")),
        *("-b", BASE, COMPUTER_FILTER, *COMPUTER_ATTRIBUTES),
    )
    assert found.returncode == 0, found.stderr
    return by_guid(read_ldif(found.stdout))


def ours(samba: SambaLab, folder: Path, reader: str, **more: Any) -> tuple[dict[str, Any], Read]:
    """Every computer as our reader reads it, and what it said of itself."""
    said, file = read_raw(samba, folder, reader, **more)
    lines = (json.loads(line) for line in file.read_text(encoding="ascii").splitlines())
    read = by_guid(
        (
            line["dn"],
            {name: [bytes.fromhex(value) for value in values] for name, values in line["attributes"].items()},
        )
        for line in lines
    )
    # None came twice.
    assert said["count"] == len(read)
    return said, read


@pytest.mark.parametrize(("door", "page_size"), [("ldaps", 333), ("kerberos", 1000)])
def test_ten_thousand_computers_are_read_as_ldapsearch_reads_them_attribute_by_attribute(
    big_samba, oracle, tmp_path, door, page_size
):
    # lesson 27: no page is lost or read twice.
    said, read = ours(big_samba, tmp_path, "paged", options={"page_size": page_size}, **DOORS[door])
    assert said["source"] == f"{CONTROLLER} {door}", said
    assert len(read) == len(oracle) == ALL
    assert read == oracle


def test_names_with_quotes_commas_emoji_pluses_and_spaces_are_among_them(oracle):
    names = {attributes["name"][0].decode() for _, attributes in oracle.values()}
    for part in (
        "Zürich-",
        "Ward 3, East",
        'Dr "Who"',
        "C++ Build",
        "back\\slash",
        "🩻",
        "東京",
        "a=b;c<d>",
        "*(star)",
    ):
        assert sum(part in name for name in names) > MANY / 20, part
    assert sum(name.startswith(" leading") for name in names) > MANY / 20
    assert sum(name.startswith("trailing") and name.endswith(" ") for name in names) > MANY / 20


@pytest.mark.parametrize("door", ["ldaps", "kerberos"])
def test_first_round_of_dirsync_is_the_same_set_with_the_same_attributes(big_samba, oracle, tmp_path, door):
    _, read = ours(big_samba, tmp_path, "dirsync", **DOORS[door])
    # Our filter runs over the whole partition, and what DirSync adds of itself is not what was asked for.
    wanted = {name.lower() for name in COMPUTER_ATTRIBUTES}
    seen = {
        guid: {name: values for name, values in attributes.items() if name in wanted and values}
        for guid, (_, attributes) in read.items()
    }
    assert seen == {guid: attributes for guid, (_, attributes) in oracle.items()}


def test_change_arrival_and_deletion_are_seen_and_base_plus_changes_is_a_full_read(big_samba, oracle, tmp_path):
    # Only who reads deleted objects may claim a deletion.
    password = f"{big_samba.password}-a"
    run_samba_script(big_samba.folder, {"do": "administrator", "account": "svc-tomb", "password": password})
    gone = next(guid for guid, (_, found) in oracle.items() if found["samaccountname"] == [b"PC00300$"])
    with follower(big_samba, tmp_path, username="svc-tomb@northvalley.test", password=password) as (first, ask):
        assert first["cursor"]
        change = {"do": "set", "account": "PC00200$", "values": {"operatingSystem": "Windows 11 Enterprise"}}
        run_samba_script(big_samba.folder, change)
        run_samba_script(big_samba.folder, {"do": "join", "name": "NOON1"})
        run_samba_script(big_samba.folder, {"do": "delete", "account": "PC00300$"})
        seen = ask("changes")
        assert seen["changed"].keys() == {"PC00200$", "NOON1$"}
        assert seen["changed"]["PC00200$"][0] == "Windows 11 Enterprise"
        assert [bytes.fromhex(gone)] == [uuid.UUID(text).bytes_le for text in seen["removed"]]
        assert seen["complete"] is True
        assert ask("full")["same"] is True
        # Nothing happened since.
        again = ask("changes")
        assert (again["changed"], again["removed"]) == ({}, [])


def test_ordinary_account_sees_changes_but_claims_no_deletion(big_samba, tmp_path):
    with follower(big_samba, tmp_path) as (first, ask):
        assert first["cursor"]
        # An attribute that loses its value is a change too.
        change = {"do": "set", "account": "PC00201$", "values": {"operatingSystemVersion": ""}}
        run_samba_script(big_samba.folder, change)
        run_samba_script(big_samba.folder, {"do": "delete", "account": "PC00301$"})
        seen = ask("changes")
        assert "PC00201$" in seen["changed"]
        assert (seen["removed"], seen["complete"]) == ([], False)


def test_built_directory_is_sound_by_sambas_own_check(big_samba):
    # What was written below Samba's modules holds together: names, SIDs, metadata, classes.
    order = {"do": "check", "under": "OU=Servers"}
    found = run_samba_script(big_samba.folder, order)
    assert found["checked"] > 1000
    assert found["errors"] == 0
