"""What appliances found out about the site's domain."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from central_app.database.connection import Database, Reader, Transaction
from central_app.database.tables import appliances, discoveries
from central_app.events import emit
from central_app.reports import Reporter, check_text, take_report, upsert
from msp_sdk.errors import WireError
from msp_sdk.models.checkin import ReportReply
from msp_sdk.models.domain import DiscoveredDomain, DiscoveryReport
from msp_sdk.wire.converter import structure, unstructure


def believed(report: DiscoveryReport) -> tuple[DiscoveredDomain, ...]:
    """The believed domains of a report, most certain first: those for which a controller answered by name."""
    named = ([report.discovered_domain] if report.discovered_domain else []) + list(report.other_domains)
    return tuple(domain for domain in named if domain.domain_controllers)


async def take_discovery(db: Database, reporter: Reporter, report: DiscoveryReport, now: datetime) -> ReportReply:
    """Keep a discovery report.

    A report that found nothing never wipes a domain that this appliance had found: it may stand in the dark for a
    while (lesson 19).

    Raises:
        WireError: It holds both a domain and nothing, or neither. Not retryable.
    """
    domain = report.discovered_domain
    if (domain is None) == (report.nothing_found is None):
        raise WireError("a report holds either discovered_domain or nothing_found.", path="discovered_domain")
    if domain is not None:
        check_text(domain.domain_name, "discovered_domain.domain_name")

    async def apply(tx: Transaction) -> None:
        before = await tx.fetch_one(
            select(discoveries.c.domain_name).where(
                discoveries.c.site_id == reporter.site_id, discoveries.c.appliance_id == reporter.appliance_id
            )
        )
        if domain is not None or before is None or before["domain_name"] is None:
            await tx.execute(
                upsert(discoveries, ("site_id", "appliance_id")).values(
                    site_id=reporter.site_id,
                    appliance_id=reporter.appliance_id,
                    domain_name=domain.domain_name if domain else None,
                    report=unstructure(report),
                    received_at=now,
                )
            )
        await emit(tx, reporter.site_id, "domain-discovered", {"domain_name": domain.domain_name if domain else None})

    return await take_report(db, reporter, report.report_id, "domain-discovered", now, apply)


async def list_discoveries(reader: Reader, site_id: str) -> list[DiscoveryReport]:
    """The last report of each appliance of a site, newest first; empty when none has reported.

    One that awaits approval is not heard: the certificates in a report are what a partner picks from.
    """
    rows = await reader.fetch_all(
        select(discoveries.c.report)
        .where(
            discoveries.c.site_id == site_id,
            discoveries.c.appliance_id.in_(
                select(appliances.c.id).where(
                    appliances.c.site_id == site_id, appliances.c.state != "awaiting_approval"
                )
            ),
        )
        .order_by(discoveries.c.received_at.desc(), discoveries.c.appliance_id)
    )
    return [structure(row["report"], DiscoveryReport) for row in rows]
