"""The pages in a real browser: live, escaped, and under a policy that lets nothing else run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.chromium

NOW = "2026-01-05T10:00:00Z"
SCRIPT = "<script>window.pwned=1</script>"
IMAGE = '<img src=x onerror="window.pwned=1">'
SOON_MS = 5000


def computer(name: str, role: str = "workstation") -> dict[str, object]:
    return {
        "object_guid": f"guid-{abs(hash(name))}",
        "sam_account_name": f"{name}$",
        "hostname": name,
        "role": role,
        "is_server": role == "server",
        "is_workstation": role == "workstation",
        "is_domain_controller": False,
        "os_name": "Windows 11 Pro",
    }


@pytest.fixture
def site(central: Any) -> Iterator[SimpleNamespace]:
    joined = central.join()
    with central.client(joined.key) as appliance:

        def report(call: str, **body: object) -> None:
            answer = appliance.post(f"/api/appliances/{call}", json=body)
            assert answer.status_code == 200, answer.text

        yield SimpleNamespace(central=central, report=report, site_id=joined.site_id, url=central.url)


def discover(site: Any) -> None:
    domain = {"domain_name": "corp.example", "domain_controllers": ["dc1.corp.example"], "discovered_at": NOW}
    site.report("domain-discovered", report_id="d1", discovered_domain=domain)


def enumerate_(site: Any, *computers: dict[str, object]) -> None:
    results = {
        "kind": "full",
        "domain_name": "corp.example",
        "enumeration_time": NOW,
        "source": "dc1 ldaps",
        "workstations": computers,
    }
    site.report("enumeration-results", report_id=f"e{len(computers)}", results=results)


def log_in(page: Any, site: Any) -> None:
    page.goto(f"{site.url}/sites/{site.site_id}")
    assert page.url == f"{site.url}/login"
    page.get_by_label("One-time code").fill(site.central.http.post("/api/partners/me/login-codes").json()["code"])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{site.url}/")


def open_site(page: Any, site: Any) -> None:
    log_in(page, site)
    page.get_by_role("link", name="Clinic").click()
    page.wait_for_selector(".live[data-state=on]", timeout=SOON_MS)


def test_the_page_follows_the_site_without_a_reload(page: Any, site: Any) -> None:
    open_site(page, site)
    page.evaluate("window.notReloaded = true")
    assert page.locator(".phase-word").inner_text() == "Discovering"
    discover(site)
    page.locator(".phase-word", has_text="Awaiting credentials").wait_for(timeout=SOON_MS)
    enumerate_(site, computer("PC1"))
    row = page.get_by_role("row", name="PC1")
    row.wait_for(timeout=SOON_MS)
    target = {"hostname": "PC1", "role": "workstation", "object_guid": computer("PC1")["object_guid"]}
    site.report("targets", report_id="t1", enumeration_generation=0, targets=[target])
    failed = {
        "hostname": "PC1",
        "object_guid": computer("PC1")["object_guid"],
        "success": False,
        "state": "failed",
        "action": "install",
        "error": {"code": "not-authorised-here", "detail": "in words"},
    }
    site.report("agent-deployments", report_id="a1", deployments=[failed])
    row.get_by_text("Failed").wait_for(timeout=SOON_MS)
    # The reason and what to do about it, in words of the one table.
    assert "this host does not let it in" in row.inner_text()
    assert "Make the account a local administrator there." in row.inner_text()
    assert page.locator(".figure.bad dd").inner_text() == "1"
    assert page.evaluate("window.notReloaded") is True


def test_the_page_says_of_a_computer_what_its_directory_says(page: Any, site: Any) -> None:
    discover(site)
    known = {
        "ou_path": "Clinic/Reception",
        "last_logon_at": "2026-01-02T08:00:00Z",
        "laps": "windows",
        "managed_by": "CN=Ann Smith,OU=People,DC=corp,DC=example",
        "skipped_reason": "stale",
    }
    enumerate_(site, {**computer("PC1"), **known}, computer("PC2"))
    open_site(page, site)
    text = page.get_by_role("row", name="PC1").inner_text()
    for part in ("Windows 11 Pro", "Clinic/Reception", "Windows LAPS", "Ann Smith", "No sign of life"):
        assert part in text, part
    assert page.get_by_role("row", name="PC1").locator("time").get_attribute("datetime").startswith("2026-01-02T08")
    assert page.get_by_role("row", name="PC2").locator("time").count() == 0
    if os.environ.get("MSP_SCREENSHOT"):
        page.screenshot(path=os.environ["MSP_SCREENSHOT"], full_page=True)


def test_the_page_shows_what_is_known_of_the_domain_and_lists_a_computer_that_has_just_joined(
    page: Any, site: Any
) -> None:
    open_site(page, site)
    controller = {"fqdn": "dc1.corp.example", "ad_site": "HQ"}
    domain = {
        "domain_name": "corp.example",
        "domain_controllers": ["dc1.corp.example"],
        "discovered_at": NOW,
        "netbios_name": "CORP",
        "forest": "forest.example",
        "ad_site": "Clinic",
        "confidence": 95,
        "evidence": [{"kind": "srv", "source": "10.0.0.1", "detail": IMAGE}],
        "controllers": [controller],
    }
    site.report("domain-discovered", report_id="d1", discovered_domain=domain)
    row = page.get_by_role("row", name="corp.example")
    row.wait_for(timeout=SOON_MS)
    for text in ("CORP", "forest.example", "Clinic", "dc1.corp.example", "in HQ", "95 %"):
        assert text in row.inner_text()
    row.get_by_text("Evidence").click()
    assert IMAGE in row.inner_text()
    enumerate_(site, computer("PC1"))
    fresh = {**computer("PC2"), "skipped_reason": "new", "os_name": None}
    changes = {"kind": "changes", "domain_name": "corp.example", "enumeration_time": NOW, "source": "dc1 ldaps"}
    site.report("enumeration-results", report_id="c1", results={**changes, "workstations": [fresh]})
    joined = page.get_by_role("row", name="PC2")
    joined.wait_for(timeout=SOON_MS)
    assert "The account is new" in joined.inner_text()
    assert page.get_by_role("row", name="corp.example").locator("details[open]").count() == 1


def test_a_host_name_with_a_script_is_text_also_when_it_arrives_live(page: Any, site: Any) -> None:
    open_site(page, site)
    discover(site)
    enumerate_(site, computer(SCRIPT), computer(IMAGE))
    page.locator(".name", has_text=SCRIPT).wait_for(timeout=SOON_MS)
    assert page.locator(".name", has_text=IMAGE).count() == 1
    page.reload()
    page.wait_for_selector(".live[data-state=on]", timeout=SOON_MS)
    assert page.locator(".name", has_text=SCRIPT).count() == 1
    assert page.locator("main script, main img").count() == 0
    assert page.evaluate("window.pwned") is None


def test_an_injected_script_would_not_run(page: Any, site: Any) -> None:
    """The policy holds even where escaping would fail; a page without it would fail this test."""
    open_site(page, site)
    page.evaluate(
        """() => { const script = document.createElement('script');
        try { script.textContent = 'window.pwned = 1'; document.body.append(script); } catch { /* refused */ } }"""
    )
    assert page.evaluate("window.pwned") is None
    assert page.complaints
    assert all("Content Security Policy" in text or "TrustedScript" in text for text in page.complaints)
    page.complaints.clear()


def test_the_page_is_whole_without_any_script(chromium: Any, page: Any, site: Any) -> None:
    log_in(page, site)
    discover(site)
    enumerate_(site, computer("PC1"))
    context = chromium.new_context(java_script_enabled=False, storage_state=page.context.storage_state())
    try:
        plain = context.new_page()
        plain.goto(f"{site.url}/sites/{site.site_id}")
        assert plain.locator(".phase-word").inner_text() == "Awaiting credentials"
        plain.get_by_role("link", name="Left out").click()
        assert plain.locator("tbody .name").first.inner_text() == "PC1"
    finally:
        context.close()


def test_a_wrong_code_is_said_on_the_page(page: Any, site: Any) -> None:
    page.goto(f"{site.url}/login")
    page.get_by_label("One-time code").fill("AAAA-BBBB-CCCC-DDDD")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").wait_for(timeout=SOON_MS)
    assert "login code" in page.get_by_role("alert").inner_text()
    # The browser itself notes the 401 on its console.
    page.complaints.clear()


def test_logging_out_ends_the_session(page: Any, site: Any) -> None:
    open_site(page, site)
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{site.url}/login")
    page.goto(f"{site.url}/sites/{site.site_id}")
    assert page.url == f"{site.url}/login"


def test_logging_out_in_another_tab_ends_the_session_too(page: Any, site: Any) -> None:
    log_in(page, site)
    # A tab of its own knows nothing of what the first one kept.
    tab = page.context.new_page()
    tab.goto(f"{site.url}/sites/{site.site_id}")
    tab.get_by_role("button", name="Log out").click()
    tab.wait_for_url(f"{site.url}/login")
    page.goto(f"{site.url}/")
    assert page.url == f"{site.url}/login"


def test_a_log_out_that_did_not_happen_is_not_claimed(page: Any, site: Any) -> None:
    log_in(page, site)
    page.context.set_offline(True)
    page.locator("[data-logout]").click()
    page.get_by_role("button", name="Still logged in, try again").wait_for(timeout=SOON_MS)
    page.context.set_offline(False)
    page.locator("[data-logout]").click()
    page.wait_for_url(f"{site.url}/login")
    page.complaints.clear()


def test_many_sites_come_in_pages(site: Any) -> None:
    entries = {"entries": [{"client_name": f"Branch {number:03}"} for number in range(100)]}
    site.central.http.post("/api/partners/me/provisions/bulk", json=entries).raise_for_status()
    with site.central.client() as client:
        client.post("/api/session", json={"api_key": site.central.api_key}).raise_for_status()
        first, second = client.get("/").text, client.get("/?from=100").text
    assert (first.count('class="card site"'), second.count('class="card site"')) == (100, 1)
    assert 'href="?from=100"' in first
    assert "Next sites" not in second


def test_every_page_carries_the_policy(site: Any) -> None:
    for path in ("/login", "/", f"/sites/{site.site_id}", "/static/page.js", "/static/none"):
        headers = site.central.call("GET", path).headers
        assert "require-trusted-types-for 'script'" in headers["content-security-policy"], path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
