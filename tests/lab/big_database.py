"""Fill a fresh Samba directory with thousands of computers in seconds. Run by the system's Python.

Through Samba's own door an object costs 10 to 20 ms, more with each one: its index is merged again and again. So here
Samba makes one object of each kind, and the others are copies of these, written into the partition's database below
all of Samba's modules while it has no index; Samba then finds the index missing and builds it once.

A copy differs from its pattern in what must differ: names, GUID, SID, update numbers, and a few values. It has exactly
the attributes of its pattern, so that the replication metadata hold. ``samba-tool dbcheck`` finds nothing wrong.

Reads ``{"folder", "domain", "computers"}`` as JSON on stdin; prints what it made.
"""

import json
import struct
import sys
import time
import uuid
from pathlib import Path

import ldb
from samba import param
from samba.auth import system_session
from samba.dcerpc import drsblobs
from samba.ndr import ndr_pack, ndr_unpack
from samba.samdb import SamDB

RELAX = "relax:0"
DAY = 86_400 * 10_000_000
# Above what the controller will ever hand out itself.
FIRST_RID = 1_000_000
# Room for what one transaction touches; Samba's default makes it crawl.
INDEX_ROOM = "transaction_index_cache_size:200000"

LEGACY_LAPS = ("ms-Mcs-AdmPwdExpirationTime", "1.2.840.113556.1.8000.2554.50051.45980.28112.18903.35903.6685103")
WINDOWS_LAPS = ("msLAPS-PasswordExpirationTime", "1.2.840.113556.1.6.44.1.1")

WINDOWS_10 = {"operatingSystem": "Windows 10 Professionnel", "operatingSystemVersion": "10.0 (19045)"}
WINDOWS_11 = {"operatingSystem": "Windows 11 Pro", "operatingSystemVersion": "10.0 (22631)"}
SERVER_2019 = {"operatingSystem": "Windows Server 2019 Standard", "operatingSystemVersion": "10.0 (17763)"}
SERVER_2022 = {"operatingSystem": "Windows Server® 2022 Datacenter", "operatingSystemVersion": "10.0 (20348)"}
RED_HAT = {"operatingSystem": "Red Hat Enterprise Linux", "operatingSystemVersion": "9.4"}
UBUNTU = {"operatingSystem": "pc-linux-gnu"}

# Where, what of, days since the last logon (None: never), further attributes, and how many in a thousand there are.
KINDS = {
    "workstation10": ("OU=Arbeitsplätze", WINDOWS_10, 3, {}, 400),
    "workstation11": ('OU=Clinic\\, North \\"A\\"', WINDOWS_11, 1, {WINDOWS_LAPS[0]: "134000000000000000"}, 300),
    "server2019": ("OU=Servers", SERVER_2019, 2, {LEGACY_LAPS[0]: "134000000000000000"}, 80),
    "server2022": ("OU=Servers", SERVER_2022, 2, {"description": "Belegt, »geprüft«"}, 60),
    "stale": ('OU=Clinic\\, North \\"A\\"', WINDOWS_10, 400, {}, 60),
    "disabled": ("OU=Servers", SERVER_2019, 30, {"userAccountControl": str(0x1000 | 0x2)}, 40),
    "prestaged": ("OU=東京", None, None, {}, 20),
    "linux": ("OU=東京", RED_HAT, 5, {}, 20),
    "bare": ("CN=Computers", UBUNTU, 5, {}, 10),
    "cluster": (
        "OU=Servers",
        SERVER_2022,
        1,
        {"servicePrincipalName": ["MSClusterVirtualServer/pat9", "HOST/pat9"]},
        5,
    ),
    "gmsa": ("CN=Managed Service Accounts", None, 1, {}, 5),
}
# Each stands for a kind of trouble in a distinguished name, a filter or an LDIF line.
NAMES = (
    "PC-{n}", "Zürich-{n}", "Ward 3, East {n}", 'Dr "Who" {n}', "C++ Build {n}", "back\\slash {n}", " leading {n}",
    "trailing {n} ", "#hash {n}", "東京-{n}", "x-ray 🩻 {n}", "a=b;c<d>{n}", "e\u0301 combining {n}", "a/b {n}",
    "*(star) {n}", "two  spaces {n}",
)  # fmt: skip


def main() -> None:
    """Fill the directory."""
    order = json.load(sys.stdin)
    folder = Path(order["folder"])
    settings = param.LoadParm()
    settings.load(str(folder / "etc" / "smb.conf"))
    settings.set("dsdb:schema update allowed", "yes")
    add_laps(open_directory(folder, settings))
    # Opened anew, it knows the new attributes.
    samdb = open_directory(folder, settings)
    base = samdb.domain_dn()
    patterns = make_patterns(samdb, base, order["domain"])
    count = order["computers"] - len(patterns)
    samdb.transaction_start()
    numbers = [samdb.sequence_number(ldb.SEQ_NEXT) for _ in range(count)]
    samdb.transaction_commit()
    del samdb
    copy_patterns(folder, base, order["domain"], patterns, numbers)
    finish(folder, settings, base)
    json.dump({"computers": len(patterns) + len(numbers)}, sys.stdout)


def open_directory(folder: Path, settings: param.LoadParm) -> SamDB:
    """The whole directory through all of Samba's modules."""
    path = str(folder / "private" / "sam.ldb")
    return SamDB(url=path, session_info=system_session(settings), lp=settings, options=[INDEX_ROOM])


def open_raw(path: Path) -> ldb.Ldb:
    """One database as it lies on the disk."""
    return ldb.Ldb(f"tdb://{path}", flags=ldb.FLG_DONT_CREATE_DB, options=["modules:", INDEX_ROOM])


def add_laps(samdb: SamDB) -> None:
    """Two generations of LAPS, as their set-up adds them to a schema: the dates alone, no password."""
    schema = str(samdb.get_schema_basedn())
    for name, oid in (LEGACY_LAPS, WINDOWS_LAPS):
        samdb.add(
            {
                "dn": f"CN={name},{schema}",
                "objectClass": "attributeSchema",
                "lDAPDisplayName": name,
                "attributeID": oid,
                "attributeSyntax": "2.5.5.16",
                "oMSyntax": "65",
                "isSingleValued": "TRUE",
            }
        )
    samdb.modify_ldif("dn:\nchangetype: modify\nadd: schemaUpdateNow\nschemaUpdateNow: 1\n")
    message = ldb.Message(ldb.Dn(samdb, f"CN=Computer,{schema}"))
    message["mayContain"] = ldb.MessageElement([LEGACY_LAPS[0], WINDOWS_LAPS[0]], ldb.FLAG_MOD_ADD, "mayContain")
    samdb.modify(message)
    samdb.modify_ldif("dn:\nchangetype: modify\nadd: schemaUpdateNow\nschemaUpdateNow: 1\n")


def make_patterns(samdb: SamDB, base: str, domain: str) -> list[str]:
    """One object of each kind, by Samba; returns their account names in the order of the kinds."""
    for place in sorted({row[0] for row in KINDS.values() if row[0].startswith("OU=")}):
        samdb.add({"dn": f"{place},{base}", "objectClass": "organizationalUnit"})
    now = int((time.time() + 11_644_473_600) * 10_000_000)
    accounts = []
    for kind, (place, system, seen, more, _) in KINDS.items():
        entry = {
            "dn": f"CN=pattern-{kind},{place},{base}",
            "objectClass": "msDS-GroupManagedServiceAccount" if kind == "gmsa" else "computer",
            "sAMAccountName": f"PAT{len(accounts)}$",
            "userAccountControl": str(0x1000),
        }
        if kind == "gmsa":
            entry["msDS-ManagedPasswordInterval"] = "30"
        if system is not None:
            host = f"pat{len(accounts)}"
            names = [f"HOST/{host}", f"HOST/{host}.{domain}"]
            entry |= {**system, "dNSHostName": f"{host}.{domain}", "servicePrincipalName": names}
        if seen is not None:
            entry["lastLogonTimestamp"] = str(now - seen * DAY)
        entry.update(more)
        samdb.add(entry, controls=[RELAX])
        accounts.append(entry["sAMAccountName"])
    return accounts


def copy_patterns(folder: Path, base: str, domain: str, patterns: list[str], numbers: list[int]) -> None:
    """Write the copies, in one transaction and without an index."""
    raw = open_raw(folder / "private" / "sam.ldb.d" / f"{base.upper()}.ldb")
    raw.transaction_start()
    raw.delete("@INDEXLIST")
    found = [raw.search(expression=f"(sAMAccountName={account})")[0] for account in patterns]
    kinds = [index for index, row in enumerate(KINDS.values()) for _ in range(row[-1])]
    for position, usn in enumerate(numbers):
        # 7 and 1,000 have no common factor: the kinds are mixed, and each comes as often as it should.
        pattern = found[kinds[position * 7 % len(kinds)]]
        raw.add(make_copy(raw, pattern, position, usn, domain))
    raw.transaction_commit()
    del raw
    # The top database tells Samba whether the indices are as its schema wants them.
    open_raw(folder / "private" / "sam.ldb").delete("@INDEXLIST")


def make_copy(raw: ldb.Ldb, pattern: ldb.Message, position: int, usn: int, domain: str) -> ldb.Message:
    """A record like the pattern, of its own identity."""
    common_name = NAMES[position % len(NAMES)].format(n=position)
    place = ldb.Dn(raw, str(pattern.dn))
    place.set_component(0, "CN", common_name)
    message = ldb.Message(place)
    values = {
        key: [bytes(value) for value in pattern[key]] for key in pattern if key not in ("dn", "distinguishedName")
    }
    host = f"pc{position:05}"
    values["cn"] = values["name"] = [common_name.encode()]
    values["objectGUID"] = [uuid.uuid5(uuid.NAMESPACE_DNS, f"{host}.{domain}").bytes_le]
    values["objectSid"] = [values["objectSid"][0][:-4] + struct.pack("<I", FIRST_RID + position)]
    values["sAMAccountName"] = [f"{host.upper()}$".encode()]
    values["uSNCreated"] = values["uSNChanged"] = [str(usn).encode()]
    metadata = ndr_unpack(drsblobs.replPropertyMetaDataBlob, values["replPropertyMetaData"][0])
    for entry in metadata.ctr.array:
        entry.originating_usn = entry.local_usn = usn
    values["replPropertyMetaData"] = [ndr_pack(metadata)]
    if "dNSHostName" in values:
        old = b"/" + values["dNSHostName"][0].split(b".")[0]
        values["dNSHostName"] = [f"{host}.{domain}".encode()]
        values["servicePrincipalName"] = [
            spn.replace(old, f"/{host}".encode()) for spn in values["servicePrincipalName"]
        ]
    if "lastLogonTimestamp" in values:
        values["lastLogonTimestamp"] = [str(int(values["lastLogonTimestamp"][0]) - position * 10_000_019).encode()]
    for key, found in values.items():
        message[key] = ldb.MessageElement(found, ldb.FLAG_MOD_ADD, key)
    return message


def finish(folder: Path, settings: param.LoadParm, base: str) -> None:
    """Let Samba build its index, and make the last change its own: so it learns the highest update number."""
    samdb = open_directory(folder, settings)
    for place in sorted({row[0] for row in KINDS.values() if row[0].startswith("OU=")}):
        message = ldb.Message(ldb.Dn(samdb, f"{place},{base}"))
        message["description"] = ldb.MessageElement("Filled", ldb.FLAG_MOD_REPLACE, "description")
        samdb.modify(message)


if __name__ == "__main__":
    main()
