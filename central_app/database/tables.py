"""Every table of Central, as SQLAlchemy Core metadata with portable types.

``site_id`` leads the primary key of every table of a site, ``partner_id`` of every table of a partner, so that the
same schema shards by site. There are no soft deletes: what is gone is deleted, and the audit says what it was.
Secrets are ciphertexts or keyed hashes; the keys are not in the database.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    true,
)

from central_app.database.types import Big, Folded, Instant

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=NAMES)

# --- The partner, its people and their keys -------------------------------------------------------------------------

partners = Table(
    "partners",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("slug", String(80), nullable=False),
    Column("brand_name", String(200), nullable=False),
    Column("primary_color", String(20), nullable=False, server_default="#1f4e79"),
    Column("logo_url", Text),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("slug"),
)

users = Table(
    "users",
    metadata,
    Column("partner_id", String(40), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("email", String(320), nullable=False),
    Column("role", String(20), nullable=False),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("partner_id", "email"),
)

partner_keys = Table(
    "partner_keys",
    metadata,
    Column("partner_id", String(40), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("key_hash", LargeBinary, nullable=False),
    Column("user_id", String(40), nullable=False),
    Column("label", String(200), nullable=False, server_default=""),
    Column("created_at", Instant, nullable=False),
    Column("last_used_at", Instant),
    Column("revoked_at", Instant),
    UniqueConstraint("partner_id", "key_hash"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("partner_id", String(40), primary_key=True),
    Column("session_hash", LargeBinary, primary_key=True),
    Column("user_id", String(40), nullable=False),
    Column("key_id", String(40)),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
)

login_codes = Table(
    "login_codes",
    metadata,
    Column("code_hash", LargeBinary, primary_key=True),
    Column("partner_id", String(40), nullable=False),
    Column("user_id", String(40), nullable=False),
    Column("key_id", String(40)),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
)

vault_keys = Table(
    "vault_keys",
    metadata,
    # A name of the key outside the database, derived from it one way: another key is noticed at the start.
    Column("key_name", String(64), primary_key=True),
    Column("created_at", Instant, nullable=False),
)

# --- Sites ------------------------------------------------------------------------------------------------------------

sites = Table(
    "sites",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("partner_id", String(40), nullable=False),
    Column("name", String(200), nullable=False),
    Column("time_zone", String(80), nullable=False, server_default="UTC"),
    Column("checkin_interval_seconds", Float, nullable=False, server_default="60"),
    Column("scope", JSON(none_as_null=True), nullable=False),
    Column("auto_rollout", JSON(none_as_null=True)),
    Column("allow_plaintext_credentials", Boolean, nullable=False, server_default=false()),
    Column("allow_ntlm", Boolean, nullable=False, server_default=false()),
    Column("allow_domain_admin_on_hosts", Boolean, nullable=False, server_default=false()),
    Column("trusted_cas", JSON(none_as_null=True), nullable=False),
    Column("enabled_runbooks", JSON(none_as_null=True), nullable=False),
    Column("credentials_version", Big, nullable=False, server_default="1"),
    Column("targets_version", Big, nullable=False, server_default="1"),
    Column("event_sequence", Big, nullable=False, server_default="0"),
    Column("created_at", Instant, nullable=False),
    Index(None, "partner_id"),
)

provision_codes = Table(
    "provision_codes",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("partner_id", String(40), nullable=False),
    Column("code_hash", LargeBinary, nullable=False),
    # The code itself, encrypted, until it is claimed, expired or revoked.
    Column("ciphertext", LargeBinary),
    Column("client_name", String(200)),
    Column("uses", Integer, nullable=False, server_default="1"),
    Column("used", Integer, nullable=False, server_default="0"),
    Column("auto_approve", Boolean, nullable=False, server_default=false()),
    # pending, claimed or revoked; that it expired is seen from the clock.
    Column("status", String(20), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    UniqueConstraint("code_hash"),
    Index(None, "partner_id"),
)

appliances = Table(
    "appliances",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("id", String(80), primary_key=True),
    Column("partner_id", String(40), nullable=False),
    Column("state", String(20), nullable=False),
    Column("mac_address", String(17), nullable=False),
    # Raw public keys; both or neither.
    Column("signing_key", LargeBinary),
    Column("sealing_key", LargeBinary),
    Column("provision_id", String(40), nullable=False),
    Column("hardware_id", String(200)),
    Column("created_at", Instant, nullable=False),
    # False until one of its keys was used at a check-in; from then on a keyless repeat of the claim is refused.
    Column("key_used", Boolean, nullable=False, server_default=false()),
    # A partner said replace: the next claim at this site takes this place.
    Column("replace_wished_at", Instant),
    Column("hostname", String(255)),
    Column("agent_version", String(80)),
    Column("nixos_version", String(80)),
    Column("ip_addresses", JSON(none_as_null=True), nullable=False),
    Column("all_mac_addresses", JSON(none_as_null=True), nullable=False),
    Column("subnets", JSON(none_as_null=True), nullable=False),
    Column("uptime_seconds", Float),
    Column("health", JSON(none_as_null=True)),
    Column("clock_skew_s", Float),
    Column("unknown_fields_count", Big, nullable=False, server_default="0"),
    Column("last_seen_at", Instant),
    # The last delivery of credentials that is in the audit.
    Column("delivered", JSON(none_as_null=True)),
    # Generations: how many times work was wished and how many times it was done.
    Column("enumeration_wished", Big, nullable=False, server_default="0"),
    Column("enumeration_done", Big, nullable=False, server_default="0"),
    Column("scan_wished", Big, nullable=False, server_default="0"),
    Column("scan_done", Big, nullable=False, server_default="0"),
    # For a client that does not say what it completed: what it was told, and when.
    Column("enumeration_sent", Big, nullable=False, server_default="0"),
    Column("enumeration_sent_at", Instant),
    Column("scan_sent", Big, nullable=False, server_default="0"),
    Column("scan_sent_at", Instant),
    Index(None, "site_id", "mac_address"),
)

appliance_keys = Table(
    "appliance_keys",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("key_hash", LargeBinary, primary_key=True),
    Column("appliance_id", String(80), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("used_at", Instant),
    Index(None, "site_id", "appliance_id"),
)

ended_devices = Table(
    "ended_devices",
    metadata,
    Column("site_id", String(40), primary_key=True),
    # ``key <signing key in hex>``, else ``mac <MAC>`` for one that registered none.
    Column("device", String(80), primary_key=True),
    Column("appliance_id", String(80), nullable=False),
    Column("ended_at", Instant, nullable=False),
)

# --- Credentials ------------------------------------------------------------------------------------------------------

credentials = Table(
    "credentials",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("version", Big, nullable=False, server_default="1"),
    Column("type", String(20), nullable=False),
    Column("username", String(255), nullable=False),
    Column("host", String(255)),
    Column("domain_name", String(255)),
    Column("netbios_name", String(40)),
    Column("port", Integer),
    Column("use_ssl", Boolean, nullable=False, server_default=true()),
    Column("trusted_certificates", JSON(none_as_null=True), nullable=False),
    # The password under a data key of its own; the data key under the vault's key, which is not in the database.
    Column("ciphertext", LargeBinary, nullable=False),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("state", String(20), nullable=False, server_default="unproven"),
    Column("state_code", String(80)),
    Column("state_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

sealed_credentials = Table(
    "sealed_credentials",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("credential_id", String(40), primary_key=True),
    Column("version", Big, primary_key=True),
    Column("appliance_id", String(80), primary_key=True),
    Column("key_id", String(32), primary_key=True),
    Column("blob", LargeBinary, nullable=False),
)

credential_leases = Table(
    "credential_leases",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("credential_id", String(40), primary_key=True),
    Column("version", Big, nullable=False),
    Column("appliance_id", String(80), nullable=False),
    Column("leased_at", Instant, nullable=False),
)

credential_states = Table(
    "credential_states",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("credential_id", String(40), primary_key=True),
    Column("appliance_id", String(80), primary_key=True),
    Column("version", Big, nullable=False),
    Column("state", String(20), nullable=False),
    Column("code", String(80)),
    Column("at", Instant, nullable=False),
)

# --- Targets, packages, rollouts --------------------------------------------------------------------------------------

manual_targets = Table(
    "manual_targets",
    metadata,
    Column("site_id", String(40), primary_key=True),
    # The host name, case-folded.
    Column("host_key", String(255), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("hostname", String(255), nullable=False),
    Column("port", Integer),
    Column("use_ssl", Boolean),
    Column("role", String(20)),
    Column("credential_id", String(40)),
    Column("excluded", Boolean, nullable=False, server_default=false()),
)

packages = Table(
    "packages",
    metadata,
    Column("partner_id", String(40), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("version", String(80), nullable=False),
    Column("size_bytes", Big, nullable=False),
    Column("manifest", JSON(none_as_null=True), nullable=False),
    Column("uploaded", Boolean, nullable=False, server_default=false()),
    Column("created_at", Instant, nullable=False),
)

package_chunks = Table(
    "package_chunks",
    metadata,
    Column("partner_id", String(40), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("partner_id", String(40), nullable=False),
    Column("generation", Big, nullable=False, server_default="1"),
    Column("state", String(20), nullable=False),
    Column("action", String(20), nullable=False),
    Column("package_sha256", String(64), nullable=False),
    Column("scope", JSON(none_as_null=True), nullable=False),
    Column("waves", JSON(none_as_null=True), nullable=False),
    # ``window`` is a reserved word in SQL.
    Column("time_window", JSON(none_as_null=True)),
    # Made by the site's auto_rollout.
    Column("automatic", Boolean, nullable=False, server_default=false()),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

# --- What appliances report -------------------------------------------------------------------------------------------

discoveries = Table(
    "discoveries",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("appliance_id", String(80), primary_key=True),
    # The whole report; ``domain_name`` is None when nothing was found.
    Column("domain_name", String(255)),
    Column("report", JSON(none_as_null=True), nullable=False),
    Column("received_at", Instant, nullable=False),
)

enumerations = Table(
    "enumerations",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("appliance_id", String(80), primary_key=True),
    # Case-folded; empty for a failure that names no domain.
    Column("domain_name", String(255), primary_key=True),
    # What the last complete ``full`` enumeration said beside its computers; it stays, whatever fails after it.
    Column("full", JSON(none_as_null=True)),
    Column("full_at", Instant),
    Column("full_generation", Big),
    # When a ``changes`` report arrived, and a digest of where the last report of either kind had read to.
    Column("changes_at", Instant),
    Column("cursor_sha256", String(64)),
    Column("failed", JSON(none_as_null=True)),
    Column("failed_at", Instant),
    Column("failed_generation", Big),
)

computers = Table(
    "computers",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("object_guid", String(40), primary_key=True),
    Column("domain_name", String(255), nullable=False),
    Column("hostname", String(255), nullable=False),
    Column("fqdn", String(255)),
    Column("folded_hostname", Folded, nullable=False, server_default=""),
    Column("folded_fqdn", Folded),
    Column("role", String(20), nullable=False),
    Column("data", JSON(none_as_null=True), nullable=False),
    Column("appliance_id", String(80), nullable=False),
    Column("report_id", String(80), nullable=False),
    Column("first_seen_at", Instant, nullable=False),
    Column("reported_at", Instant, nullable=False),
    Column("vanished_at", Instant),
    Index(None, "site_id", "domain_name"),
    Index(None, "site_id", "folded_hostname"),
)

target_reports = Table(
    "target_reports",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("appliance_id", String(80), primary_key=True),
    Column("report_id", String(80), nullable=False, server_default=""),
    Column("enumeration_generation", Big, nullable=False),
    Column("received_at", Instant, nullable=False),
)

targets = Table(
    "targets",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("appliance_id", String(80), primary_key=True),
    # objectGUID, else the folded name.
    Column("host_key", String(255), primary_key=True),
    Column("hostname", String(255), nullable=False),
    Column("role", String(20), nullable=False),
    # A machine that is no target carries the reason.
    Column("skipped", Boolean, nullable=False, server_default=false()),
    Column("reason", String(80)),
    Column("data", JSON(none_as_null=True), nullable=False),
)

deployments = Table(
    "deployments",
    metadata,
    Column("site_id", String(40), primary_key=True),
    # Empty for a deployment outside a rollout.
    Column("rollout_id", String(40), primary_key=True),
    Column("host_key", String(255), primary_key=True),
    Column("appliance_id", String(80), nullable=False),
    Column("hostname", String(255), nullable=False),
    Column("object_guid", String(40)),
    Column("generation", Big),
    Column("state", String(20), nullable=False),
    Column("success", Boolean, nullable=False),
    Column("outcome", JSON(none_as_null=True), nullable=False),
    Column("received_at", Instant, nullable=False),
)

scan_results = Table(
    "scan_results",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("host_key", String(255), primary_key=True),
    # ``check`` is a reserved word in SQL.
    Column("check_name", String(120), primary_key=True),
    Column("appliance_id", String(80), nullable=False),
    Column("hostname", String(255), nullable=False),
    Column("object_guid", String(40)),
    Column("status", String(20), nullable=False),
    Column("generation", Big),
    Column("result", JSON(none_as_null=True), nullable=False),
    Column("checked_at", Instant, nullable=False),
    Column("received_at", Instant, nullable=False),
)

runbook_results = Table(
    "runbook_results",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("run_id", String(40), primary_key=True),
    Column("host_key", String(255), primary_key=True),
    Column("phase", String(40), primary_key=True),
    Column("appliance_id", String(80), nullable=False),
    Column("runbook", String(120), nullable=False),
    Column("status", String(20), nullable=False),
    Column("result", JSON(none_as_null=True), nullable=False),
    Column("received_at", Instant, nullable=False),
)

reports = Table(
    "reports",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("appliance_id", String(80), primary_key=True),
    Column("report_id", String(80), primary_key=True),
    Column("kind", String(40), nullable=False),
    # Kept 30 days; a repeat within them changes nothing.
    Column("received_at", Instant, nullable=False),
    Index(None, "received_at"),
)

# --- Oversight --------------------------------------------------------------------------------------------------------

events = Table(
    "events",
    metadata,
    Column("site_id", String(40), primary_key=True),
    Column("sequence", Big, primary_key=True),
    Column("type", String(80), nullable=False),
    Column("at", Instant, nullable=False),
    Column("data", JSON(none_as_null=True), nullable=False),
)

audit = Table(
    "audit",
    metadata,
    # Empty for what concerns the partner itself: that is a chain of its own.
    Column("site_id", String(40), primary_key=True),
    Column("partner_id", String(40), primary_key=True),
    Column("sequence", Big, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", String(80), nullable=False),
    Column("address", String(80)),
    Column("detail", JSON(none_as_null=True), nullable=False),
    Column("digest", String(64), nullable=False),
    Index(None, "partner_id", "at"),
)
