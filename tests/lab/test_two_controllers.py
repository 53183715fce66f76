"""A domain of two real controllers in two sites: which one is asked, and what happens when it dies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from msp_sdk.directory.sync import parse_cursor
from tests.lab.controller import ADDRESS, DOMAIN, run_samba_script
from tests.lab.following import follower
from tests.lab.pair import FIRST_SITE, OUR_SITE, SambaPair, samba_pair

pytestmark = pytest.mark.samba

FIRST, SECOND = f"dc1.{DOMAIN}", f"dc2.{DOMAIN}"


@pytest.fixture(scope="module")
def pair() -> Iterator[SambaPair]:
    with samba_pair() as both:
        yield both


def test_both_controllers_are_found_with_their_sites_and_the_one_of_our_site_comes_first(pair):
    (domain,) = pair.first.ask("discover", dns=ADDRESS)["domains"]
    # The subnet says so, not the controller that was asked first.
    assert domain["ad_site"] == OUR_SITE
    assert [(entry["fqdn"], entry["ad_site"]) for entry in domain["controllers"]] == [
        (SECOND, OUR_SITE),
        (FIRST, FIRST_SITE),
    ]


def test_changes_go_on_at_the_other_controller_when_the_one_that_was_read_dies(pair, tmp_path):
    # Lesson 53: a cookie of DirSync may be taken to another controller.
    password = f"{pair.first.password}-a"
    run_samba_script(pair.first.folder, {"do": "administrator", "account": "svc-tomb", "password": password})
    pair.replicate(to=pair.second)
    who = {"username": f"svc-tomb@{DOMAIN}", "password": password, "options": {"doors": ["ldaps"]}}
    with follower(pair.first, tmp_path, discovered=True, **who) as (first, ask):
        assert first["source"] == f"{SECOND} ldaps"
        assert parse_cursor(first["cursor"]).kind == "dirsync"
        # One change each knows of by itself, and the end of a computer.
        change = {"do": "set", "account": "SQL1$", "values": {"operatingSystem": "Windows Server 2025 Standard"}}
        run_samba_script(pair.second.folder, change)
        pair.replicate(to=pair.first)
        run_samba_script(pair.first.folder, {"do": "join", "name": "NOON1"})
        run_samba_script(pair.first.folder, {"do": "delete", "account": "LINUX1$"})
        assert pair.logons_count(pair.second, "svc-tomb") == 1
        pair.kill_second()
        seen = ask("changes")
        assert seen["source"] == f"{FIRST} ldaps"
        # What was known may come again; nothing is missing.
        assert seen["changed"].keys() >= {"SQL1$", "NOON1$"}
        assert seen["changed"]["SQL1$"][0] == "Windows Server 2025 Standard"
        assert len(seen["removed"]) == 1
        assert ask("full")["same"] is True
        assert pair.logons_count(pair.first, "svc-tomb") == 1
