"""The stand-in's changes: update numbers, DirSync as Windows does it, tombstones, partners."""

from __future__ import annotations

import pytest
import sansldap

from msp_sdk.testing.directory_data import make_computer_entry, make_entry
from msp_sdk.testing.directory_dirsync import OBJECT_SECURITY, Delta, DirSyncRefused, read_delta
from msp_sdk.testing.directory_spec import DirectorySpec

DOMAIN = "northvalley.test"
BASE = "DC=northvalley,DC=test"
COMPUTERS = "(objectClass=computer)"
ASKED = ["cn", "name", "operatingSystem", "description", "isDeleted", "parentGUID"]
WILL_NOT_PERFORM, NO_RIGHT = 53, 50


def make_spec(count: int = 3) -> DirectorySpec:
    entries = [make_computer_entry(f"PC{n}", "Windows 11 Pro", domain=DOMAIN) for n in range(count)]
    return DirectorySpec(DOMAIN, "NORTHVALLEY", entries)


def sync(
    spec: DirectorySpec,
    cookie: bytes = b"",
    *,
    who: str = "svc",
    flags: int = OBJECT_SECURITY,
    base: str = BASE,
    text: str = COMPUTERS,
    max_bytes: int = 0,
) -> Delta:
    message = sansldap.SearchRequest(
        1, [], base, sansldap.SearchScope.SUBTREE, sansldap.DereferencingPolicy.NEVER, 0, 0, False,
        sansldap.LDAPFilter.from_string(text), ASKED,
    )  # fmt: skip
    return read_delta(spec.log, message, spec.rights.reader(who), flags=flags, max_bytes=max_bytes, cookie=cookie)


def told(delta: Delta) -> list[dict[str, tuple[bytes, ...]]]:
    return [{name: tuple(values) for name, values in row if name not in ("objectGUID", "instanceType")}
            for _, row in delta.rows]  # fmt: skip


def test_a_delta_carries_only_what_changed_and_a_removed_attribute_has_no_values():
    # Lesson 53.
    spec = make_spec()
    spec.change(f"CN=PC1,CN=Computers,{BASE}", {"description": "till"})
    first = sync(spec)
    assert len(first.rows) == 3
    assert told(sync(spec, first.cookie)) == []
    spec.change(f"CN=PC1,CN=Computers,{BASE}", {"operatingSystem": "Windows 10 Pro", "description": None})
    assert told(sync(spec, first.cookie)) == [{"description": (), "operatingSystem": (b"Windows 10 Pro",)}]


def test_a_tombstone_comes_only_to_who_reads_deleted_objects_and_has_no_category():
    # Lesson 53.
    spec = make_spec()
    cookie = sync(spec).cookie
    spec.delete(f"CN=PC1,CN=Computers,{BASE}")
    assert sync(spec, cookie).rows == []
    spec.rights.reads_deleted.add("svc")
    assert told(sync(spec, cookie))[0]["isDeleted"] == (b"TRUE",)
    assert sync(spec, cookie, text="(objectCategory=computer)").rows == []
    container = f"CN=Deleted Objects,{BASE}"
    wanted = sansldap.LDAPFilter.from_string(f"(&(isDeleted=TRUE){COMPUTERS})")
    reader = spec.rights.reader("svc")
    assert len(spec.find(container, 2, wanted, reader, show_deleted=True) or []) == 1
    assert spec.find(container, 0, wanted, spec.rights.reader("else"), show_deleted=True) is None


def test_a_base_that_is_no_root_a_lacking_right_and_a_garbled_cookie_are_refused():
    spec = make_spec()
    cookie = sync(spec).cookie
    with pytest.raises(DirSyncRefused) as refused:
        sync(spec, base=f"CN=Computers,{BASE}")
    assert refused.value.code == WILL_NOT_PERFORM
    with pytest.raises(DirSyncRefused) as refused:
        sync(spec, flags=0)
    assert refused.value.code == NO_RIGHT
    for wrong in (b"nonsense", cookie[:-1], sync(DirectorySpec("other.test", "OTHER"), base="DC=other,DC=test").cookie):
        with pytest.raises(DirSyncRefused):
            sync(spec, wrong)


def test_rounds_of_few_bytes_lose_nothing_and_repeat_nothing():
    spec = make_spec(20)
    seen, cookie, more = [], b"", True
    while more:
        delta = sync(spec, cookie, max_bytes=500)
        seen += [dn for dn, _ in delta.rows]
        cookie, more = delta.cookie, delta.more
    assert sorted(seen) == sorted(entry.dn for entry in spec.entries)


def test_a_cookie_goes_on_at_a_partner_and_update_numbers_do_not():
    spec = make_spec()
    spec.change(spec.entries[0].dn, {"description": "till"})
    other = spec.replica("dc2", delay_s=3600)
    cookie = sync(spec).cookie
    assert sync(other, cookie).rows == []
    assert other.log.usn != spec.log.usn
    spec.change(spec.entries[1].dn, {"description": "new"})
    assert sync(other, cookie).rows == []
    other.replicate()
    assert told(sync(other, cookie)) == [{"description": (b"new",)}]


def test_an_object_moved_out_of_sight_vanishes_without_a_word():
    spec = make_spec()
    cookie = sync(spec).cookie
    spec.rights.hidden.add(f"OU=Board,{BASE}")
    spec.move(spec.entries[0].dn, f"OU=Board,{BASE}")
    assert sync(spec, cookie).rows == []
    spec.rights.reads_hidden.add("svc")
    assert set(told(sync(spec, cookie))[0]) == {"name", "parentGUID"}


def test_changes_made_in_the_list_by_hand_are_numbered_too():
    spec = make_spec()
    before = spec.log.usn
    spec.entries[0] = make_entry(spec.entries[0].dn, {**spec.entries[0].attributes, "description": "by hand"})
    spec.entries.pop()
    assert spec.log.usn == before + 2


def test_a_password_of_laps_is_not_even_present_to_who_may_not_read_it():
    spec = DirectorySpec(DOMAIN, "NV", [make_computer_entry("PC", None, domain=DOMAIN, **{"ms-Mcs-AdmPwd": "x"})])
    wanted = sansldap.LDAPFilter.from_string("(ms-Mcs-AdmPwd=*)")
    assert spec.find(BASE, 2, wanted, spec.rights.reader("svc")) == []
    spec.rights.reads_confidential.add("svc")
    assert len(spec.find(BASE, 2, wanted, spec.rights.reader("svc")) or []) == 1
