"""What of a domain belongs to the site now, and who was read once and is left out. No I/O."""

from __future__ import annotations

from datetime import UTC, datetime

from msp_sdk.enumeration.locality import Locality
from msp_sdk.models.computer import Computer, Enumeration, EnumerationScope, RemovedComputer
from msp_sdk.models.scope import SiteScope
from runners.appliance.scope_view import ScopeView

DOMAIN = "northvalley.test"
EVERYWHERE = Locality((), (), ())


def computer(name: str, ou_path: str = "Oslo") -> Computer:
    return Computer(
        object_guid=f"guid-{name}",
        sam_account_name=f"{name}$",
        hostname=name,
        role="server",
        is_server=True,
        is_workstation=False,
        is_domain_controller=False,
        domain_name=DOMAIN,
        ou_path=ou_path,
    )


def reading(*computers: Computer, ous: tuple[str, ...] = ()) -> Enumeration:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Enumeration(DOMAIN, computers, now, "dc1", scope=EnumerationScope(ous=ous))


def test_who_is_missing_in_a_narrower_reading_is_left_out_and_is_not_gone():
    view = ScopeView(DOMAIN)
    oslo, bergen = computer("A"), computer("B", "Bergen")
    view.note_reading(reading(oslo, ous=("Oslo",)), (oslo, bergen))
    assert view.left_out == {"guid-B"}
    view.note_reading(reading(oslo, bergen, ous=("Oslo", "Bergen")), (oslo,))
    assert view.left_out == set()


def test_who_is_missing_where_the_reading_has_looked_is_gone_and_is_not_left_out():
    view = ScopeView(DOMAIN)
    oslo, other = computer("A"), computer("B")
    view.note_reading(reading(oslo, ous=("Oslo",)), (oslo, other))
    assert view.left_out == set()


def test_a_reading_of_everything_leaves_nobody_out():
    view = ScopeView(DOMAIN)
    oslo, bergen = computer("A"), computer("B", "Bergen")
    view.note_reading(reading(oslo, ous=("Oslo",)), (oslo, bergen))
    view.note_reading(reading(oslo), (oslo,))
    assert view.left_out == set()


def test_who_leaves_the_scope_is_left_out_and_who_comes_back_or_is_deleted_is_not():
    view = ScopeView(DOMAIN)
    view.note_changes((), (RemovedComputer("guid-A", "out-of-scope"), RemovedComputer("guid-B", "deleted")))
    assert view.left_out == {"guid-A"}
    view.note_changes((computer("A"),), ())
    assert view.left_out == set()


def test_a_narrower_scope_holds_at_once_and_is_worked_out_once():
    view = ScopeView(DOMAIN)
    read = reading(computer("A"), computer("B", "Bergen"))
    narrow = view.narrowed(read, SiteScope(ous=("Oslo",)), EVERYWHERE)
    assert [(entry.hostname, entry.skipped_reason) for entry in narrow] == [("A", None), ("B", "out-of-scope")]
    assert view.narrowed(read, SiteScope(ous=("Oslo",)), EVERYWHERE) is narrow
    other = view.narrowed(read, SiteScope(ous=("Bergen",)), EVERYWHERE)
    assert [entry.skipped_reason for entry in other] == ["out-of-scope", None]
