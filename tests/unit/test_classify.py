"""What an entry is, by one table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from msp_sdk.directory.entry import (
    Entry,
    dn_to_domain,
    ou_path,
    parse_filetime,
    parse_guid,
    parse_sid,
    render_filetime,
    render_sid,
    split_dn,
)
from msp_sdk.enumeration.classify import ClassifyRules, ServiceAccount, Unidentified, classify
from msp_sdk.enumeration.systems import VendorRules
from msp_sdk.models.computer import Computer
from msp_sdk.models.reason import REASONS
from msp_sdk.models.scope import fold_path
from msp_sdk.testing.directory_data import (
    UAC_CONTROLLER,
    UAC_DISABLED,
    UAC_READ_ONLY_CONTROLLER,
    UAC_WORKSTATION,
    make_computer_entry,
    make_service_account_entry,
)

DOMAIN = "northvalley.test"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
GUID = (bytes(range(16)),)


def judge(name: str = "HOST1", os_name: str | None = "Windows 11 Pro", **more) -> Computer:
    more.setdefault("seen_at", NOW - DAY)
    made = make_computer_entry(name, os_name, domain=DOMAIN, **more)
    found = classify(Entry(made.dn, made.folded), domain_name=DOMAIN, now=NOW)
    assert isinstance(found, Computer)
    return found


@pytest.mark.parametrize(
    ("os_name", "os_version", "role", "skipped"),
    [
        # Lesson 25: all of these were wrong somewhere.
        ("Windows Server 2025 Datacenter", "10.0 (26100)", "server", None),
        ("Windows Server 2022 Standard", "10.0 (20348)", "server", None),
        ("Windows Server 2008 R2 Enterprise", "6.1 (7601)", "server", None),
        ("Windows Server\N{REGISTERED SIGN} 2008 Enterprise", "6.0 (6003)", "server", "unsupported-os"),
        ("Windows Server 2003", "5.2 (3790)", "server", "unsupported-os"),
        ("Windows 2000 Server", None, "server", "unsupported-os"),
        ("Windows Storage Server 2016 Standard", "10.0 (14393)", "server", None),
        ("Windows Small Business Server 2011 Standard", "6.1 (7601)", "server", None),
        ("Hyper-V Server", "10.0 (17763)", "server", None),
        ("Azure Stack HCI", "10.0 (25398)", "server", None),
        ("Windows Server IoT 2019 Standard", "10.0 (17763)", "server", "vendor-managed"),
        ("Windows 11 Enterprise", "10.0 (26100)", "workstation", None),
        ("Windows 10 Enterprise", "10.0 (19045)", "workstation", None),
        ("Windows 10 Pro for Workstations", "10.0 (19045)", "workstation", None),
        ("Windows 8.1 Pro", "6.3 (9600)", "workstation", None),
        ("Windows 7 Professionnel", "6.1 (7601)", "workstation", None),
        ("Windows Enterprise", None, "workstation", None),
        ("Windows Vista\N{TRADE MARK SIGN} Business", "6.0 (6002)", "workstation", "unsupported-os"),
        ("Windows XP Professional", "5.1 (2600)", "workstation", "unsupported-os"),
        ("Windows 10 IoT Enterprise LTSC", "10.0 (17763)", "workstation", "vendor-managed"),
        ("Windows Embedded Standard", "6.1 (7601)", "workstation", "vendor-managed"),
        ("Red Hat Enterprise Linux", "9.4", "other", "not-windows"),
        ("Ubuntu Server", "24.04", "other", "not-windows"),
        ("Samba", "4.17.12-Debian", "other", "not-windows"),
        ("macOS", "15.1", "other", "not-windows"),
        ("Mac OS X Server", "10.6", "other", "not-windows"),
        ("NetApp Release 9.14", None, "other", "not-windows"),
        # Editions in the languages of this world, and those that are made for many.
        ("Windows 10 Professionnel", "10.0 (19045)", "workstation", None),
        ("Windows 10 Entreprise LTSC", "10.0 (17763)", "workstation", None),
        ("Windows Server 2019 Standard \N{LATIN CAPITAL LETTER E WITH ACUTE}valuation", "10.0 (17763)", "server", None),
        ("Windows 10 Корпоративная", "10.0 (19045)", "workstation", None),
        ("Майкрософт Windows 10 Pro", "10.0 (19045)", "workstation", None),
        ("Windows 10 専用", "10.0 (19045)", "workstation", None),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER W}indows 7 Ultimate", "6.1 (7601)", "workstation", None),
        ("Windows 11 Enterprise multi-session", "10.0 (22631)", "workstation", None),
        ("Windows 10 Enterprise for Virtual Desktops", "10.0 (19045)", "workstation", None),
        ("Windows 11 Pro Education", "10.0 (22631)", "workstation", None),
        ("Windows\N{NO-BREAK SPACE}Server\N{REGISTERED SIGN} 2016 Datacenter Core", "10.0 (14393)", "server", None),
        ("Windows MultiPoint Server 2012 Premium", "6.2 (9200)", "server", None),
        ("Windows Embedded POSReady 2009", "5.1 (2600)", "workstation", "unsupported-os"),
        ("Windows Embedded POSReady 7", "6.1 (7601)", "workstation", "vendor-managed"),
        ("Not Windows Server", None, "other", "not-windows"),
        # What is not seen is no part of a name.
        ("\N{RIGHT-TO-LEFT MARK}Windows 10 Pro", "10.0 (19045)", "workstation", None),
        ("\N{RIGHT-TO-LEFT EMBEDDING}Windows 10 Pro\N{POP DIRECTIONAL FORMATTING}", None, "workstation", None),
        ("\N{ZERO WIDTH NO-BREAK SPACE}Windows Server 2019 Standard", "10.0 (17763)", "server", None),
        ("Hyper\N{NON-BREAKING HYPHEN}V Server", "10.0 (17763)", "server", None),
        # Windows PowerShell 5.1 goes on 7 SP1, 8.1, Server 2008 R2 SP1 and 2012, and not on 8.
        ("Windows 8 Pro", "6.2 (9200)", "workstation", "unsupported-os"),
        ("Windows\N{REGISTERED SIGN} 8 Enterprise N", None, "workstation", "unsupported-os"),
        ("Windows 8.1 Pro", None, "workstation", None),
        ("Windows Server 2012 Datacenter", "6.2 (9200)", "server", None),
        ("Windows 7 Professional", "6.1 (7600)", "workstation", "unsupported-os"),
        ("Windows 7 Ultimate N", "6.1", "workstation", None),
        ("Windows Server 2008 R2 Standard", "6.1 (7600)", "server", "unsupported-os"),
        ("Windows Server 2008 R2 Standard", None, "server", None),
        ("Windows Server 2008 Standard", None, "server", "unsupported-os"),
        ("Windows NT", "4.0", "workstation", "unsupported-os"),
        ("Windows Embedded 8 Standard", "6.2 (9200)", "workstation", "unsupported-os"),
        ("Windows Embedded 8.1 Industry Pro", "6.3 (9600)", "workstation", "vendor-managed"),
        ("Windows ThinPC", "6.1 (7601)", "workstation", "vendor-managed"),
        ("Windows Embedded for Point of Service", "6.1 (7601)", "workstation", "vendor-managed"),
        ("Windows 11 IoT Enterprise LTSC", "10.0 (26100)", "workstation", "vendor-managed"),
        ("Windows Server IoT 2022 Standard", "10.0 (20348)", "server", "vendor-managed"),
        ("Windows 10 Team", "10.0 (19045)", "workstation", "vendor-managed"),
        ("Windows 10 Enterprise 2015 LTSB", "10.0 (10240)", "workstation", None),
        ("Windows 10 Enterprise LTSC", "10.0 (19044)", "workstation", None),
        ("Windows 10 \u4e13\u4e1a\u7248", "10.0 (19045)", "workstation", None),
        ("Windows 7 \u65d7\u8230\u7248", "6.1 (7601)", "workstation", None),
        ("Windows 10 \u0130\u015f letmesi", "10.0 (19045)", "workstation", None),
        ("Windows Server Datacenter", "10.0 (25398)", "server", None),
        ("Windows Server vNext Standard", "10.0 (29000)", "server", None),
        ("Windows Server 2022 Datacenter Azure Edition", "10.0 (20348)", "server", None),
        ("Windows Server 2012 R2 Essentials", "6.3 (9600)", "server", None),
        ("Windows Small Business Server 2011 Essentials", "6.1 (7601)", "server", None),
        ("Windows Home Server 2011", "6.1 (7601)", "server", None),
        ("Microsoft Hyper-V Server", "6.3 (9600)", "server", None),
        ("Azure Local", "10.0 (26100)", "server", None),
        ("Microsoft Azure Stack HCI", "10.0 (20348)", "server", None),
        # ESXi and some appliances write that they do not know: then nobody does.
        ("unknown", "unknown", "other", "unknown-os"),
        ("N/A", None, "other", "unknown-os"),
    ],
)
def test_an_operating_system_makes_the_role_and_the_reason(os_name, os_version, role, skipped):
    computer = judge(os_name=os_name, os_version=os_version)
    assert (computer.role, computer.skipped_reason) == (role, skipped)
    assert computer.is_server == (role == "server")
    assert computer.is_workstation == (role == "workstation")


@pytest.mark.parametrize(
    ("os_name", "platform"),
    [
        ("Windows 11 Pro", "windows"),
        ("Windows Server 2025 Standard", "windows"),
        ("Red Hat Enterprise Linux", "linux"),
        ("pc-linux-gnu", "linux"),
        ("Ubuntu", "linux"),
        ("macOS", "macos"),
        ("Mac OS X", "macos"),
        ("Data ONTAP Release 8.1", "storage"),
        ("Isilon OneFS", "storage"),
        ("OnTap", "storage"),
        ("NetApp Release 9.14.1", "storage"),
        ("EMC Celerra File Server", "storage"),
        ("OneFS", "storage"),
        ("Unity File Server", "storage"),
        ("FlashBlade", "storage"),
        ("DSM", "storage"),
        ("Synology DSM", "storage"),
        ("QTS", "storage"),
        ("TrueNAS", "storage"),
        ("Nutanix Files", "storage"),
        ("redhat-linux-gnu", "linux"),
        ("openSUSE Leap", "linux"),
        ("SUSE Linux Enterprise Server", "linux"),
        ("SLES", "linux"),
        ("Oracle Linux Server", "linux"),
        ("CentOS Stream", "linux"),
        ("Debian GNU/Linux", "linux"),
        ("Rocky Linux", "linux"),
        ("Univention Corporate Server", "linux"),
        ("macOS Sequoia", "macos"),
        ("VMware ESXi", "other"),
        ("Nutanix AHV", "other"),
        ("Samba", "other"),
        ("Oracle Solaris", "other"),
        ("AIX", "other"),
        ("HP-UX", "other"),
        ("FreeBSD", "other"),
        ("HP LaserJet 4250", "other"),
        ("KONICA MINOLTA bizhub", "other"),
        (None, None),
    ],
)
def test_the_platform_is_named(os_name, platform):
    # Lesson 25.
    assert judge(os_name=os_name).platform == platform


def test_what_a_site_sets_of_the_rules_is_what_counts():
    made = make_computer_entry("BENCH7", "Windows 11 Pro", domain=DOMAIN, seen_at=NOW - 40 * DAY)
    entry = Entry(made.dn, made.folded)
    vendor = VendorRules(words=(r"\bbench7\b",), units=())
    for rules, wanted in (
        (ClassifyRules(), None),
        (ClassifyRules(vendor=vendor), "vendor-managed"),
        (ClassifyRules(stale_after=20 * DAY), "stale"),
    ):
        found = classify(entry, domain_name=DOMAIN, now=NOW, rules=rules)
        assert isinstance(found, Computer)
        assert found.skipped_reason == wanted


def test_who_looks_after_it_and_its_laps_are_told():
    boss = f"CN=Boss,{DOMAIN}"
    assert judge(managedBy=boss).managed_by == boss
    expires = "ms-Mcs-AdmPwdExpirationTime"
    assert judge().laps is None
    assert judge(**{expires: 1}).laps == "legacy"
    assert judge(**{expires: 1, "msLAPS-PasswordExpirationTime": 1}).laps == "windows"


@pytest.mark.parametrize(
    "more",
    [
        {"servicePrincipalName": ("E3514235-4B06-11D1-AB04-00C04FC2DCD2/x/northvalley.test",)},
        {"uac": UAC_CONTROLLER},
        {"uac": UAC_READ_ONLY_CONTROLLER},
        {"primaryGroupID": 516},
        {"primaryGroupID": 521},
    ],
    ids=["replication service", "account flag", "read-only flag", "group", "read-only group"],
)
def test_every_sign_of_a_controller_makes_one_read_only_ones_too(more):
    # Lesson 25: RODCs were dropped.
    computer = judge(os_name="Windows Server 2022 Standard", **more)
    assert computer.role == "domain_controller"
    assert computer.is_domain_controller
    assert computer.is_server
    assert not computer.is_workstation


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("AZUREADSSOACC", {"uac": UAC_WORKSTATION}),
        ("AzureADKerberos", {"uac": UAC_READ_ONLY_CONTROLLER, "primaryGroupID": 521}),
        ("stfiles01", {"servicePrincipalName": ("cifs/stfiles01.file.core.windows.net",)}),
    ],
)
def test_an_account_of_the_cloud_is_no_machine_no_controller_and_never_stale(name, more):
    computer = judge(name, None, seen_at=NOW - 900 * DAY, **more)
    assert (computer.role, computer.skipped_reason) == ("other", "cloud-account")
    assert not computer.is_domain_controller


def test_a_controller_that_is_not_windows_is_still_a_controller_but_no_target():
    computer = judge(os_name="Samba", uac=UAC_CONTROLLER)
    assert (computer.role, computer.skipped_reason) == ("domain_controller", "not-windows")


@pytest.mark.parametrize(
    "kind",
    ["msDS-GroupManagedServiceAccount", "msDS-ManagedServiceAccount", "msDS-DelegatedManagedServiceAccount"],
)
def test_managed_service_accounts_are_counted_and_never_listed(kind):
    # Lesson 25: gMSAs were counted as computers.
    made = make_service_account_entry("gmsa1", domain=DOMAIN)
    attributes = {**made.folded, "objectclass": (b"top", b"computer", kind.encode())}
    assert classify(Entry(made.dn, attributes), domain_name=DOMAIN, now=NOW) == ServiceAccount("GMSA1$")


def test_a_cluster_name_is_no_machine_but_its_nodes_are():
    # Lesson 25.
    name = judge(
        os_name="Windows Server 2022 Datacenter", servicePrincipalName=("HOST/CLU1", "MSClusterVirtualServer/CLU1")
    )
    assert (name.role, name.skipped_reason) == ("other", "cluster-name")
    described = judge(description="Failover cluster virtual network name account")
    assert (described.role, described.skipped_reason) == ("other", "cluster-name")
    node = judge(os_name="Windows Server 2022 Datacenter", servicePrincipalName=("MSServerCluster/NODE1",))
    assert (node.role, node.skipped_reason) == ("server", None)


def test_a_disabled_computer_is_listed_and_never_a_target():
    # Lesson 26.
    computer = judge(uac=UAC_WORKSTATION | UAC_DISABLED)
    assert (computer.role, computer.enabled, computer.skipped_reason) == ("workstation", False, "disabled-account")


@pytest.mark.parametrize(
    ("logon_days", "password_days", "stale"),
    [(10, 10, False), (89, 200, False), (103, 200, False), (105, 200, True), (200, 30, False), (2000, 2000, True)],
)
def test_stale_counts_the_stamps_lag_and_the_passwords_age(logon_days, password_days, stale):
    # Lesson 26: lastLogonTimestamp lags up to 14 days; a fresh password is a sign of life too.
    computer = judge(
        lastLogonTimestamp=render_filetime(NOW - logon_days * DAY),
        pwdLastSet=render_filetime(NOW - password_days * DAY),
        whenCreated="20100101000000.0Z",
    )
    assert (computer.stale, computer.skipped_reason) == (stale, "stale" if stale else None)
    assert computer.last_logon_at == NOW - logon_days * DAY


@pytest.mark.parametrize(
    ("made_days", "logon_days", "password_days", "reason"),
    [
        # Joined at noon; joined to an account that was made long ago; started, and its system not yet told.
        (0, None, 0, "new"),
        (29, None, 29, "new"),
        (60, None, 0, "new"),
        (1, 0, 1, "new"),
        # Made ahead, and nobody came.
        (31, None, 31, "pre-staged"),
        (31, None, None, "pre-staged"),
        # It works, and says nothing.
        (2000, 5, 12, "unknown-os"),
        (40, 40, 40, "unknown-os"),
    ],
)
def test_a_computer_whose_system_nobody_knows_says_how_far_it_has_come(made_days, logon_days, password_days, reason):
    def stamp(days: int | None) -> int:
        return 0 if days is None else render_filetime(NOW - days * DAY)

    computer = judge(
        os_name=None,
        whenCreated=(NOW - made_days * DAY).strftime("%Y%m%d%H%M%S.0Z"),
        lastLogonTimestamp=stamp(logon_days),
        pwdLastSet=stamp(password_days),
    )
    assert (computer.role, computer.skipped_reason) == ("other", reason)


def test_a_pre_staged_computer_is_new_and_listed_by_its_account_name():
    computer = judge("PRESTAGED1", None, whenCreated="20260228000000.0Z")
    assert (computer.hostname, computer.fqdn, computer.role) == ("PRESTAGED1", None, "other")
    assert (computer.skipped_reason, computer.stale) == ("new", False)


def test_a_pre_staged_computer_that_never_came_is_stale():
    computer = judge("NEVERCAME", None, whenCreated="20200101000000.0Z")
    assert (computer.skipped_reason, computer.stale) == ("stale", True)


def test_a_computer_without_a_dns_name_says_so():
    computer = judge(dNSHostName=None)
    assert (computer.role, computer.skipped_reason, computer.hostname) == ("workstation", "no-name", "HOST1")


def test_a_long_name_comes_whole_from_its_dns_name():
    computer = judge("a-very-long-name-of-a-host")
    assert computer.hostname == "a-very-long-name-of-a-host"
    assert computer.sam_account_name == "A-VERY-LONG-NAM$"


def test_identity_and_place_are_read():
    computer = judge("SRV,1", "Windows Server 2022 Standard", ou=r"OU=Ser\,vers,OU=Cli/nic")
    assert computer.ou_path == r"Cli\/nic/Ser,vers"
    assert computer.sid is not None
    assert computer.sid.startswith("S-1-5-21-1111-2222-3333-")
    assert len(computer.object_guid) == 36
    assert computer.domain_name == DOMAIN


def test_an_entry_with_nothing_is_listed_and_nothing_breaks():
    computer = classify(Entry("CN=X,DC=y", {"objectguid": GUID}), domain_name=DOMAIN, now=NOW)
    assert isinstance(computer, Computer)
    assert (computer.hostname, computer.role, computer.skipped_reason) == ("CN=X,DC=y", "other", "unknown-os")


def test_an_entry_without_an_identity_is_nobody():
    for attributes in ({}, {"objectguid": (b"x",)}, {"objectguid": ()}):
        entry = Entry("CN=X,DC=y", {"samaccountname": (b"X$",), **attributes})
        assert classify(entry, domain_name=DOMAIN, now=NOW) == Unidentified("X$")


def test_texts_are_on_one_line_and_of_bounded_length():
    computer = judge(
        "WS1",
        "Windows\x00 10\tPro\u2028" + "x" * 300,
        managedBy="CN=\x07Boss," + "x" * 5000,
        ou="OU=A\x00\nB",
        sAMAccountName="WS\x001$",
        dNSHostName=None,
    )
    assert computer.os_name is not None
    assert computer.os_name.startswith("Windows  10 Pro x")
    assert len(computer.os_name) == 255
    assert computer.managed_by is not None
    assert (computer.managed_by[:9], len(computer.managed_by)) == ("CN= Boss,", 4096)
    assert (computer.ou_path, computer.hostname, computer.sam_account_name) == ("A  B", "WS 1", "WS 1$")


@pytest.mark.parametrize(
    "name",
    [
        "x" * 64 + ".corp.example",
        ".".join(["host"] * 60),
        ".corp.example",
        "host..example",
        "two words.corp.example",
        "nul\x00.corp.example",
        "host.corp.example\nevil",
        "<script>alert(1)</script>",
        b"\xff\xfe.corp.example",
        ".",
    ],
)
def test_what_can_be_no_host_name_is_none(name):
    computer = judge(dNSHostName=name)
    assert (computer.hostname, computer.fqdn, computer.skipped_reason) == ("HOST1", None, "no-name")


@pytest.mark.parametrize("name", ["a_b-1.corp.example", "b\u00fcro.corp.example", "host", "host.corp.example."])
def test_what_can_be_a_host_name_is_one(name):
    assert judge(dNSHostName=name).fqdn == name


def test_an_account_without_a_name_is_listed_by_what_it_has():
    for account, hostname in (("$", "$"), ("\u00a0$", "$"), ("\x01", "WS1"), (" ", "WS1")):
        assert judge("WS1", dNSHostName=None, sAMAccountName=account).hostname == hostname


def test_values_that_are_nonsense_are_none():
    junk = {
        "objectguid": GUID,
        "objectsid": (b"\x01\x05zz",),
        "useraccountcontrol": (b"many",),
        "lastlogontimestamp": (b"9223372036854775807",),
        "pwdlastset": (b"-1",),
        "whencreated": (b"yesterday",),
        "samaccountname": (b"\xff$",),
        "operatingsystem": (b"Windows 11 Pro",),
        "dnshostname": (b"<script>alert(1)</script>",),
    }
    computer = classify(Entry("CN=X,DC=y", junk), domain_name=DOMAIN, now=NOW)
    assert isinstance(computer, Computer)
    assert (computer.sid, computer.fqdn, computer.last_logon_at, computer.stale) == (None, None, None, False)


def test_guid_sid_and_filetime_are_read_as_windows_writes_them():
    assert parse_guid(bytes.fromhex("33221100554477668899aabbccddeeff")) == "00112233-4455-6677-8899-aabbccddeeff"
    assert parse_sid(render_sid("S-1-5-21-1-2-3-500")) == "S-1-5-21-1-2-3-500"
    assert parse_sid(b"") is None
    assert parse_filetime(132539328000000000) == datetime(2021, 1, 1, tzinfo=UTC)
    assert parse_filetime(0x7FFF_FFFF_FFFF_FFFF) is None
    assert parse_filetime(0x7FFF_FFFF_FFFF_FFFE) is None


def test_distinguished_names_lose_their_escapes():
    assert split_dn(r"CN=A\,B\2C\C3\A4 \ ,OU=x = y,DC=z") == (("CN", "A,B,ä  "), ("OU", "x = y"), ("DC", "z"))
    assert dn_to_domain("DC=Corp,DC=Example") == "corp.example"
    assert dn_to_domain("CN=x,DC=y") is None
    assert dn_to_domain(None) is None
    assert ou_path("CN=A,CN=Computers,DC=x") == "Computers"
    assert ou_path("") == ""


def test_a_slash_and_a_backslash_in_a_containers_name_are_told_apart():
    # A\\ with Kids in it, and one container that is called A/Kids.
    nested, single = ou_path(r"CN=X,OU=Kids,OU=A\\,DC=x"), ou_path("CN=X,OU=A/Kids,DC=x")
    assert (nested, single) == (r"A\\/Kids", r"A\/Kids")
    assert fold_path(nested) == ("a\\", "kids")
    assert fold_path(single) == ("a/kids",)
    # As a person writes it.
    assert fold_path(r"back\slash/x") == ("back\\slash", "x")
    assert fold_path("/a//b/") == ("a", "b")


def test_every_reason_is_in_the_table():
    codes = {
        "cluster-name", "not-windows", "disabled-account", "stale", "new", "pre-staged", "unknown-os",
        "cloud-account", "no-name", "unsupported-os",
        "vendor-managed", "no-address", "certificate-untrusted", "unreachable-controller", "directory-failed", "no-tls",
    }  # fmt: skip
    assert codes <= set(REASONS)
