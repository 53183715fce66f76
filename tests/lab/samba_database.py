"""Work on Samba's database beside or before the running controller. Run by the system's Python, which has the bindings.

Reads an order as JSON on stdin and prints JSON: ``seed``, ``bad-password-count`` or ``reset``.
"""

import json
import sys
import time
from pathlib import Path

import ldb
from samba import param
from samba.auth import system_session
from samba.dcerpc import dnsp
from samba.ndr import ndr_pack
from samba.samdb import SamDB

WORKSTATION_TRUST = 0x1000
DISABLED = 0x2
RELAX = "relax:0"
TTL_S = 900
HUNDRED_NS = 10_000_000

SERVER_2019 = ("Windows Server 2019 Standard", "10.0 (17763)")
SERVER_2022 = ("Windows Server 2022 Datacenter", "10.0 (20348)")
WINDOWS_10 = ("Windows 10 Enterprise", "10.0 (19045)")
WINDOWS_11 = ("Windows 11 Pro", "10.0 (22631)")
RED_HAT = ("Red Hat Enterprise Linux", "9.4")

# name, operating system, disabled, address; an address also makes an A record.
COMPUTERS = (
    ("FILE1", SERVER_2019, False, "10.99.0.11"),
    ("SQL1", SERVER_2022, False, "10.99.0.12"),
    ("FRONTDESK1", WINDOWS_10, False, "10.99.0.21"),
    ("XRAY1", WINDOWS_11, False, "10.99.0.22"),
    ("OLDSRV", SERVER_2019, True, None),
    ("PRESTAGED1", None, False, None),
    ("LINUX1", RED_HAT, False, None),
)


def main() -> None:
    """Do what the order says."""
    order = json.load(sys.stdin)
    folder = Path(order["folder"])
    settings = param.LoadParm()
    settings.load(str(folder / "etc" / "smb.conf"))
    samdb = SamDB(url=str(folder / "private" / "sam.ldb"), session_info=system_session(settings), lp=settings)
    if order["do"] == "seed":
        json.dump(seed(samdb, order), sys.stdout)
    elif order["do"] == "bad-password-count":
        json.dump({"count": bad_password_count(samdb, order["account"])}, sys.stdout)
    elif order["do"] == "reset":
        reset(samdb, order["account"])
        json.dump({}, sys.stdout)
    else:
        sys.exit(f"unknown order {order['do']!r}")


def seed(samdb: SamDB, order: dict) -> dict:
    """The domain of a small clinic: its computers, their addresses, and one ordinary account."""
    base = samdb.domain_dn()
    # A test must see strikes counted without locking itself out.
    policy = ldb.Message(ldb.Dn(samdb, base))
    for name, value in (
        ("lockoutThreshold", str(order["lockout_threshold"])),
        ("lockoutDuration", str(-30 * 60 * HUNDRED_NS)),
        ("lockOutObservationWindow", str(-30 * 60 * HUNDRED_NS)),
    ):
        policy[name] = ldb.MessageElement(value, ldb.FLAG_MOD_REPLACE, name)
    samdb.modify(policy)
    samdb.newuser("svc-msp", order["password"], description="Reads the directory")
    samdb.add({"dn": f"OU=Clinic,{base}", "objectClass": "organizationalUnit"})
    for name, system, disabled, address in COMPUTERS:
        entry = {
            "dn": f"CN={name},OU=Clinic,{base}",
            "objectClass": "computer",
            "sAMAccountName": f"{name}$",
            "userAccountControl": str(WORKSTATION_TRUST | (DISABLED if disabled else 0)),
        }
        if system is not None:
            host = f"{name.lower()}.{order['domain']}"
            entry |= {"dNSHostName": host, "operatingSystem": system[0], "operatingSystemVersion": system[1]}
            # Seen today: 100 ns since 1601.
            entry["lastLogonTimestamp"] = str(now_as_filetime())
        samdb.add(entry, controls=[RELAX])
        if address is not None:
            add_address(samdb, order["domain"], name.lower(), address)
    return {"computers": [row[0] for row in COMPUTERS]}


def now_as_filetime() -> int:
    """This moment as Active Directory counts it."""
    return int((time.time() + 11_644_473_600) * HUNDRED_NS)


def add_address(samdb: SamDB, domain: str, name: str, address: str) -> None:
    """An A record of the domain's zone."""
    record = dnsp.DnssrvRpcRecord()
    record.wType = dnsp.DNS_TYPE_A
    record.rank = dnsp.DNS_RANK_ZONE
    record.dwSerial = 1
    record.dwTtlSeconds = TTL_S
    record.data = address
    zone = f"DC={domain},CN=MicrosoftDNS,DC=DomainDnsZones,{samdb.domain_dn()}"
    samdb.add({"dn": f"DC={name},{zone}", "objectClass": ["top", "dnsNode"], "dnsRecord": ndr_pack(record)})


def bad_password_count(samdb: SamDB, account: str) -> int:
    """The strikes of an account."""
    found = samdb.search(expression=f"(sAMAccountName={ldb.binary_encode(account)})", attrs=["badPwdCount"])
    return int(str(found[0].get("badPwdCount", idx=0) or 0))


def reset(samdb: SamDB, account: str) -> None:
    """No strikes and no lock."""
    found = samdb.search(expression=f"(sAMAccountName={ldb.binary_encode(account)})", attrs=["cn"])
    message = ldb.Message(found[0].dn)
    for name in ("badPwdCount", "lockoutTime"):
        message[name] = ldb.MessageElement("0", ldb.FLAG_MOD_REPLACE, name)
    samdb.modify(message, controls=[RELAX])


if __name__ == "__main__":
    main()
