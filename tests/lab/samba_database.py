"""Work on Samba's database beside or before the running controller. Run by the system's Python, which has the bindings.

Reads an order as JSON on stdin, what to ``do`` and with which values, and prints JSON: see ``ORDERS``.
"""

import json
import secrets
import sys
import time
from pathlib import Path

import ldb
from samba import enable_net_export_keytab, param
from samba.auth import system_session
from samba.dbchecker import dbcheck
from samba.dcerpc import dnsp, security
from samba.ndr import ndr_pack, ndr_unpack
from samba.net import Net
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
    found = ORDERS[order["do"]](samdb, order)
    json.dump(found, sys.stdout)


def seed(samdb: SamDB, order: dict) -> dict:
    """One ordinary account and, unless the directory is filled already, the computers of a small clinic."""
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
    # What a controller registers for itself when all of its services run.
    message = ldb.Message(dn_of(samdb, "DC1$"))
    service = f"ldap/dc1.{order['domain']}"
    message["servicePrincipalName"] = ldb.MessageElement(service, ldb.FLAG_MOD_ADD, "servicePrincipalName")
    samdb.modify(message)
    if not order["clinic"]:
        return {"computers": []}
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
        if system is not None and not disabled:
            # Which enables the account, too.
            give_keys(samdb, name)
        if address is not None:
            add_address(samdb, order["domain"], name.lower(), address)
    return {"computers": [row[0] for row in COMPUTERS]}


def give_keys(samdb: SamDB, name: str) -> None:
    """A computer that has joined has a password, and so keys for Kerberos."""
    samdb.setpassword(f"(sAMAccountName={name}$)", secrets.token_urlsafe(24))


def keytab(samdb: SamDB, order: dict) -> dict:
    """A computer's keys, in a file that only its owner reads."""
    settings = param.LoadParm()
    settings.load(str(Path(order["folder"]) / "etc" / "smb.conf"))
    enable_net_export_keytab()
    Net(None, settings).export_keytab(keytab=order["file"], principal=f"{order['account']}$")
    Path(order["file"]).chmod(0o600)
    return {}


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


def addresses(samdb: SamDB, order: dict) -> dict:
    """Some thousand hosts in DNS, with an address each."""
    samdb.transaction_start()
    for number in range(order["count"]):
        add_address(samdb, order["domain"], f"host{number:04}", f"10.100.{number // 250}.{number % 250 + 1}")
    samdb.transaction_commit()
    return {}


def computers(samdb: SamDB, order: dict) -> dict:
    """By name: SID, system, and the address that the clinic gave it."""
    addresses = {row[0]: row[3] for row in COMPUTERS}
    found = samdb.search(expression="(objectClass=computer)", attrs=["name", "objectSid", "operatingSystem"])
    return {
        str(entry["name"]): {
            "sid": str(ndr_unpack(security.dom_sid, entry["objectSid"][0])),
            "os_name": str(entry.get("operatingSystem", idx=0) or ""),
            "address": addresses.get(str(entry["name"])),
        }
        for entry in found
    }


def join(samdb: SamDB, order: dict) -> dict:
    """A computer joins: it has no system, name or address yet."""
    entry = {
        "dn": f"CN={order['name']},CN=Computers,{samdb.domain_dn()}",
        "objectClass": "computer",
        "sAMAccountName": f"{order['name']}$",
        "userAccountControl": str(WORKSTATION_TRUST),
    }
    samdb.add(entry, controls=[RELAX])
    give_keys(samdb, order["name"])
    return {}


def describe(samdb: SamDB, order: dict) -> dict:
    """The computer that joined was started anew: it tells its system and its name, and DNS its address."""
    host = f"{order['name'].lower()}.{order['domain']}"
    values = {
        "dNSHostName": host,
        "operatingSystem": order["os_name"],
        "operatingSystemVersion": "10.0 (22631)",
        "lastLogonTimestamp": str(now_as_filetime()),
    }
    add_address(samdb, order["domain"], order["name"].lower(), order["address"])
    return change(samdb, {"account": f"{order['name']}$", "values": values})


def change(samdb: SamDB, order: dict) -> dict:
    """Replace attributes of an account; an empty value removes one."""
    message = ldb.Message(dn_of(samdb, order["account"]))
    for name, value in order["values"].items():
        message[name] = ldb.MessageElement(value or [], ldb.FLAG_MOD_REPLACE, name)
    samdb.modify(message, controls=[RELAX])
    return {}


def delete(samdb: SamDB, order: dict) -> dict:
    """Delete an account's object; a tombstone stays."""
    samdb.delete(dn_of(samdb, order["account"]))
    return {}


def rename(samdb: SamDB, order: dict) -> dict:
    """Give an object, and all that lies below it, another name or place; both are told from the domain's root."""
    root = samdb.domain_dn()
    samdb.rename(f"{order['from']},{root}", f"{order['to']},{root}")
    return {}


def administrator(samdb: SamDB, order: dict) -> dict:
    """An account that may read deleted objects too."""
    samdb.newuser(order["account"], order["password"])
    samdb.add_remove_group_members("Domain Admins", [order["account"]])
    return {}


def dn_of(samdb: SamDB, account: str) -> ldb.Dn:
    """Where an account is."""
    return samdb.search(expression=f"(sAMAccountName={ldb.binary_encode(account)})", attrs=["cn"])[0].dn


def bad_password_count(samdb: SamDB, order: dict) -> dict:
    """The strikes of an account."""
    found = samdb.search(base=dn_of(samdb, order["account"]), scope=ldb.SCOPE_BASE, attrs=["badPwdCount"])
    return {"count": int(str(found[0].get("badPwdCount", idx=0) or 0))}


def reset(samdb: SamDB, order: dict) -> dict:
    """No strikes and no lock."""
    return change(samdb, {"account": order["account"], "values": {"badPwdCount": "0", "lockoutTime": "0"}})


def check(samdb: SamDB, order: dict) -> dict:
    """Samba's own check of the objects below a place; its findings go to stderr."""
    said = dbcheck(samdb, quiet=True, in_transaction=False)
    errors = said.check_database(DN=f"{order['under']},{samdb.domain_dn()}", scope=ldb.SCOPE_SUBTREE, controls=[])
    found = samdb.search(base=f"{order['under']},{samdb.domain_dn()}", attrs=["cn"])
    return {"checked": len(found), "errors": errors}


ORDERS = {
    "addresses": addresses,
    "check": check,
    "seed": seed,
    "computers": computers,
    "join": join,
    "keytab": keytab,
    "describe": describe,
    "set": change,
    "delete": delete,
    "rename": rename,
    "administrator": administrator,
    "bad-password-count": bad_password_count,
    "reset": reset,
}

if __name__ == "__main__":
    main()
