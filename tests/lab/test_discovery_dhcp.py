"""A box in a strange network: nothing but a DHCP lease, a real client, a real controller."""

from __future__ import annotations

import pytest

from tests.lab import dhcp_lab
from tests.real import need

pytestmark = pytest.mark.samba

DOMAIN = "northvalley.test"
DNS = dhcp_lab.DNS
SITE = "Default-First-Site-Name"


@pytest.fixture(scope="module")
def lab(samba):
    need(*dhcp_lab.PROGRAMS)
    dhcp_lab.define_site(samba.folder, SITE)
    with dhcp_lab.open_dhcp_lab(samba.namespace) as opened:
        yield opened


def judge(told, samba):
    (domain,) = told.document["domains"]
    assert domain["name"] == DOMAIN
    assert domain["forest"] == DOMAIN
    assert domain["netbios_name"] == "NORTHVALLEY"
    assert domain["ad_site"] == SITE
    (controller,) = domain["controllers"]
    assert (controller["fqdn"], controller["addresses"][0]) == (f"dc1.{DOMAIN}", DNS)
    assert controller["ad_site"] == SITE
    assert {88, 389, 636, 3268} <= set(controller["doors"])
    assert controller["is_primary"] is True
    assert domain["dns_servers"] == [DNS]
    assert domain["certificates"] == [{"controller": f"dc1.{DOMAIN}", "sha256": samba.certificate_sha256}]
    assert domain["functional_level"] is not None
    assert domain["forest_functional_level"] is not None
    assert controller["supported_controls"]
    assert domain["confidence"] == 100
    return domain


@pytest.mark.parametrize("client", ["udhcpc", "dhclient", "dhcpcd"])
def test_a_lease_alone_names_domain_forest_netbios_name_site_and_controllers(lab, samba, client):
    need(client)
    with lab.server(f"--dhcp-option=6,{DNS}", f"--dhcp-option=15,{DOMAIN}", f"--dhcp-option=119,clinic.{DOMAIN}"):
        told = lab.discover(client, "--json")
    judge(told, samba)


def test_a_dns_server_alone_is_enough_when_no_suffix_is_known_at_all(lab, samba):
    # The domain's controller mostly is the DNS server: it is asked as if it were one.
    need("udhcpc")
    with lab.server(f"--dhcp-option=6,{DNS}"):
        told = lab.discover("udhcpc", "--json")
    assert told.resolv_conf.split() == ["nameserver", DNS]
    domain = judge(told, samba)
    assert [item["source"] for item in domain["evidence"] if item["kind"] == "hint"] == [f"DNS server {DNS}"]


OTHER = "echo 'nameserver 10.98.0.77' > /etc/resolv.conf; "


@pytest.mark.parametrize(
    ("client", "after", "source"),
    [
        pytest.param("dhclient", OTHER, "dhcp dhclient", id="dhclient's lease"),
        pytest.param("dhcpcd", f"{OTHER} rm -rf /run/dhcpcd", "dhcp dhcpcd", id="dhcpcd's lease as it came"),
        pytest.param(
            "udhcpc",
            "mkdir -p /run/systemd/resolve; mv /etc/resolv.conf /run/systemd/resolve/resolv.conf;"
            " echo 'nameserver 127.0.0.53' > /etc/resolv.conf",
            "systemd-resolved",
            id="systemd-resolved's stub",
        ),
    ],
)
def test_the_domains_own_dns_is_found_when_resolv_conf_names_another(lab, samba, client, after, source):
    # Lesson 22.
    need(client)
    with lab.server(f"--dhcp-option=6,{DNS}", f"--dhcp-option=15,{DOMAIN}", "--dhcp-option=119,elsewhere.test"):
        told = lab.discover(client, "--json", after=after)
    domain = judge(told, samba)
    assert {hint["source"] for hint in told.document["hints"]} == {source}
    assert "127.0.0.53" not in domain["dns_servers"]


def test_a_silent_dns_server_does_not_cost_the_time_of_the_others(lab, samba):
    need("dhclient")
    with lab.server(f"--dhcp-option=6,10.98.0.77,{DNS}", f"--dhcp-option=15,{DOMAIN}"):
        told = lab.discover("dhclient", "--json")
    judge(told, samba)


def test_a_router_that_answers_every_name_with_itself_is_no_domain(lab):
    # Lessons 20 and 59: nothing is found, which is a result and says what was tried.
    need("udhcpc")
    liar = (f"--address=/#/{dhcp_lab.ROUTER}", "--no-resolv", "--no-hosts")
    with lab.server(f"--dhcp-option=6,{dhcp_lab.ROUTER}", "--dhcp-option=15,fritz.box", *liar, dns_port=53):
        told = lab.discover("udhcpc", "--json")
        said = lab.discover("udhcpc").text
    assert told.document["domains"] == []
    assert {"dns-refused", "asked-as-controller"} <= {item["kind"] for item in told.document["evidence"]}
    assert "no domain was found" in said
    assert "fritz.box" in said


def test_what_a_technician_reads_says_domain_certainty_doors_and_certificate(lab, samba):
    need("udhcpc")
    with lab.server(f"--dhcp-option=6,{DNS}", f"--dhcp-option=15,{DOMAIN}"):
        said = lab.discover("udhcpc").text
    assert said.startswith(f"{DOMAIN}  certain, confidence 100 of 100\n")
    assert "NORTHVALLEY" in said
    assert samba.certificate_sha256 in said
    assert "88 389 636 3268" in said


def test_a_sweep_that_was_asked_for_lists_the_windows_hosts_beside_us(lab):
    # Lesson 59: the walk goes on without a directory.
    need("udhcpc")
    with lab.server("--dhcp-option=6"), lab.windows_host() as address:
        told = lab.discover("udhcpc", "--sweep", "--json")
    assert told.document["domains"] == []
    (host,) = told.document["swept"]
    assert (host["address"], host["doors"], host["reason"]) == (address, [5985], "not-in-a-directory")
