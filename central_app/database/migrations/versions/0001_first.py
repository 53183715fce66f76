"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from central_app.database.types import Instant

revision = "0001"
down_revision = None

BIG = sa.Integer().with_variant(sa.BIGINT(), "postgresql")
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "appliance_keys",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("used_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("site_id", "key_hash", name=op.f("pk_appliance_keys")),
    )
    op.create_index(
        op.f("ix_appliance_keys_site_id_appliance_id"), "appliance_keys", ["site_id", "appliance_id"], unique=False
    )
    op.create_table(
        "appliances",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("partner_id", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("mac_address", sa.String(length=17), nullable=False),
        sa.Column("signing_key", sa.LargeBinary(), nullable=True),
        sa.Column("sealing_key", sa.LargeBinary(), nullable=True),
        sa.Column("provision_id", sa.String(length=40), nullable=False),
        sa.Column("hardware_id", sa.String(length=200), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("key_used", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("replace_wished_at", Instant(), nullable=True),
        sa.Column("hostname", sa.String(length=255), nullable=True),
        sa.Column("agent_version", sa.String(length=80), nullable=True),
        sa.Column("nixos_version", sa.String(length=80), nullable=True),
        sa.Column("ip_addresses", JSON, nullable=False),
        sa.Column("all_mac_addresses", JSON, nullable=False),
        sa.Column("subnets", JSON, nullable=False),
        sa.Column("ad_site", sa.String(length=255), nullable=True),
        sa.Column("uptime_seconds", sa.Float(), nullable=True),
        sa.Column("health", JSON, nullable=True),
        sa.Column("clock_skew_s", sa.Float(), nullable=True),
        sa.Column("unknown_fields_count", BIG, server_default="0", nullable=False),
        sa.Column("last_seen_at", Instant(), nullable=True),
        sa.Column("enumeration_wished", BIG, server_default="0", nullable=False),
        sa.Column("enumeration_done", BIG, server_default="0", nullable=False),
        sa.Column("scan_wished", BIG, server_default="0", nullable=False),
        sa.Column("scan_done", BIG, server_default="0", nullable=False),
        sa.Column("enumeration_sent", BIG, server_default="0", nullable=False),
        sa.Column("enumeration_sent_at", Instant(), nullable=True),
        sa.Column("scan_sent", BIG, server_default="0", nullable=False),
        sa.Column("scan_sent_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("site_id", "id", name=op.f("pk_appliances")),
    )
    op.create_index(op.f("ix_appliances_site_id_mac_address"), "appliances", ["site_id", "mac_address"], unique=False)
    op.create_table(
        "audit",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("partner_id", sa.String(length=40), nullable=False),
        sa.Column("sequence", BIG, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=80), nullable=False),
        sa.Column("address", sa.String(length=80), nullable=True),
        sa.Column("detail", JSON, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "partner_id", "sequence", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_partner_id_at"), "audit", ["partner_id", "at"], unique=False)
    op.create_table(
        "computers",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("object_guid", sa.String(length=40), nullable=False),
        sa.Column("domain_name", sa.String(length=255), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("fqdn", sa.String(length=255), nullable=True),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("report_id", sa.String(length=80), nullable=False),
        sa.Column("first_seen_at", Instant(), nullable=False),
        sa.Column("reported_at", Instant(), nullable=False),
        sa.Column("vanished_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("site_id", "object_guid", name=op.f("pk_computers")),
    )
    op.create_index(op.f("ix_computers_site_id_domain_name"), "computers", ["site_id", "domain_name"], unique=False)
    op.create_index(op.f("ix_computers_site_id_hostname"), "computers", ["site_id", "hostname"], unique=False)
    op.create_table(
        "credential_leases",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("credential_id", sa.String(length=40), nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("leased_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "credential_id", name=op.f("pk_credential_leases")),
    )
    op.create_table(
        "credential_states",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("credential_id", sa.String(length=40), nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("code", sa.String(length=80), nullable=True),
        sa.Column("at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "credential_id", "appliance_id", name=op.f("pk_credential_states")),
    )
    op.create_table(
        "credentials",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("version", BIG, server_default="1", nullable=False),
        sa.Column("type", sa.String(length=20), nullable=False),
        sa.Column("username", sa.String(length=255), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=True),
        sa.Column("domain_name", sa.String(length=255), nullable=True),
        sa.Column("netbios_name", sa.String(length=40), nullable=True),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("use_ssl", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("trusted_certificates", JSON, nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=20), server_default="unproven", nullable=False),
        sa.Column("state_code", sa.String(length=80), nullable=True),
        sa.Column("state_at", Instant(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "id", name=op.f("pk_credentials")),
    )
    op.create_table(
        "deployments",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("rollout_id", sa.String(length=40), nullable=False),
        sa.Column("host_key", sa.String(length=255), nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("object_guid", sa.String(length=40), nullable=True),
        sa.Column("generation", BIG, nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("success", sa.Boolean(), nullable=False),
        sa.Column("outcome", JSON, nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "rollout_id", "host_key", name=op.f("pk_deployments")),
    )
    op.create_table(
        "discoveries",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("domain_name", sa.String(length=255), nullable=True),
        sa.Column("report", JSON, nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "appliance_id", name=op.f("pk_discoveries")),
    )
    op.create_table(
        "enumerations",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("domain_name", sa.String(length=255), nullable=False),
        sa.Column("result", JSON, nullable=True),
        sa.Column("result_at", Instant(), nullable=True),
        sa.Column("result_generation", BIG, nullable=True),
        sa.Column("full_at", Instant(), nullable=True),
        sa.Column("full_generation", BIG, nullable=True),
        sa.Column("failed", JSON, nullable=True),
        sa.Column("failed_at", Instant(), nullable=True),
        sa.Column("failed_generation", BIG, nullable=True),
        sa.PrimaryKeyConstraint("site_id", "appliance_id", "domain_name", name=op.f("pk_enumerations")),
    )
    op.create_table(
        "events",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("sequence", BIG, nullable=False),
        sa.Column("type", sa.String(length=80), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.PrimaryKeyConstraint("site_id", "sequence", name=op.f("pk_events")),
    )
    op.create_table(
        "login_codes",
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("partner_id", sa.String(length=40), nullable=False),
        sa.Column("user_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("code_hash", name=op.f("pk_login_codes")),
    )
    op.create_table(
        "manual_targets",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("host_key", sa.String(length=255), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("use_ssl", sa.Boolean(), nullable=True),
        sa.Column("role", sa.String(length=20), nullable=True),
        sa.Column("credential_id", sa.String(length=40), nullable=True),
        sa.Column("excluded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "host_key", name=op.f("pk_manual_targets")),
    )
    op.create_table(
        "package_chunks",
        sa.Column("partner_id", sa.String(length=40), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partner_id", "sha256", "number", name=op.f("pk_package_chunks")),
    )
    op.create_table(
        "packages",
        sa.Column("partner_id", sa.String(length=40), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=80), nullable=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("manifest", JSON, nullable=False),
        sa.Column("uploaded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("partner_id", "sha256", name=op.f("pk_packages")),
    )
    op.create_table(
        "partner_keys",
        sa.Column("partner_id", sa.String(length=40), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.String(length=40), nullable=False),
        sa.Column("label", sa.String(length=200), server_default="", nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("last_used_at", Instant(), nullable=True),
        sa.Column("revoked_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_partner_keys")),
        sa.UniqueConstraint("partner_id", "key_hash", name=op.f("uq_partner_keys_partner_id_key_hash")),
    )
    op.create_table(
        "partners",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("slug", sa.String(length=80), nullable=False),
        sa.Column("brand_name", sa.String(length=200), nullable=False),
        sa.Column("primary_color", sa.String(length=20), server_default="#1f4e79", nullable=False),
        sa.Column("logo_url", sa.Text(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_partners")),
        sa.UniqueConstraint("slug", name=op.f("uq_partners_slug")),
    )
    op.create_table(
        "provision_codes",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("partner_id", sa.String(length=40), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=True),
        sa.Column("client_name", sa.String(length=200), nullable=True),
        sa.Column("uses", sa.Integer(), server_default="1", nullable=False),
        sa.Column("used", sa.Integer(), server_default="0", nullable=False),
        sa.Column("auto_approve", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "id", name=op.f("pk_provision_codes")),
        sa.UniqueConstraint("code_hash", name=op.f("uq_provision_codes_code_hash")),
    )
    op.create_index(op.f("ix_provision_codes_partner_id"), "provision_codes", ["partner_id"], unique=False)
    op.create_table(
        "reports",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("report_id", sa.String(length=80), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "appliance_id", "report_id", name=op.f("pk_reports")),
    )
    op.create_index(op.f("ix_reports_received_at"), "reports", ["received_at"], unique=False)
    op.create_table(
        "rollouts",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("partner_id", sa.String(length=40), nullable=False),
        sa.Column("generation", BIG, server_default="1", nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("action", sa.String(length=20), nullable=False),
        sa.Column("package_sha256", sa.String(length=64), nullable=False),
        sa.Column("scope", JSON, nullable=False),
        sa.Column("waves", JSON, nullable=False),
        sa.Column("time_window", JSON, nullable=True),
        sa.Column("automatic", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "id", name=op.f("pk_rollouts")),
    )
    op.create_table(
        "runbook_results",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("host_key", sa.String(length=255), nullable=False),
        sa.Column("phase", sa.String(length=40), nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("runbook", sa.String(length=120), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("result", JSON, nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "run_id", "host_key", "phase", name=op.f("pk_runbook_results")),
    )
    op.create_table(
        "scan_results",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("host_key", sa.String(length=255), nullable=False),
        sa.Column("check_name", sa.String(length=120), nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("object_guid", sa.String(length=40), nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("generation", BIG, nullable=True),
        sa.Column("result", JSON, nullable=False),
        sa.Column("checked_at", Instant(), nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "host_key", "check_name", name=op.f("pk_scan_results")),
    )
    op.create_table(
        "sealed_credentials",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("credential_id", sa.String(length=40), nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "site_id", "credential_id", "version", "appliance_id", "key_id", name=op.f("pk_sealed_credentials")
        ),
    )
    op.create_table(
        "sessions",
        sa.Column("partner_id", sa.String(length=40), nullable=False),
        sa.Column("session_hash", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("partner_id", "session_hash", name=op.f("pk_sessions")),
    )
    op.create_table(
        "sites",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("partner_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("time_zone", sa.String(length=80), server_default="UTC", nullable=False),
        sa.Column("checkin_interval_seconds", sa.Float(), server_default="60", nullable=False),
        sa.Column("scope", JSON, nullable=False),
        sa.Column("auto_rollout", JSON, nullable=True),
        sa.Column("allow_plaintext_credentials", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("allow_ntlm", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("allow_domain_admin_on_hosts", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("trusted_cas", JSON, nullable=False),
        sa.Column("enabled_runbooks", JSON, nullable=False),
        sa.Column("credentials_version", BIG, server_default="1", nullable=False),
        sa.Column("targets_version", BIG, server_default="1", nullable=False),
        sa.Column("event_sequence", BIG, server_default="0", nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", name=op.f("pk_sites")),
    )
    op.create_index(op.f("ix_sites_partner_id"), "sites", ["partner_id"], unique=False)
    op.create_table(
        "target_reports",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("report_id", sa.String(length=80), server_default="", nullable=False),
        sa.Column("enumeration_generation", BIG, nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "appliance_id", name=op.f("pk_target_reports")),
    )
    op.create_table(
        "targets",
        sa.Column("site_id", sa.String(length=40), nullable=False),
        sa.Column("appliance_id", sa.String(length=80), nullable=False),
        sa.Column("host_key", sa.String(length=255), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("skipped", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("reason", sa.String(length=80), nullable=True),
        sa.Column("data", JSON, nullable=False),
        sa.PrimaryKeyConstraint("site_id", "appliance_id", "host_key", name=op.f("pk_targets")),
    )
    op.create_table(
        "users",
        sa.Column("partner_id", sa.String(length=40), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("email", sa.String(length=320), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("partner_id", "id", name=op.f("pk_users")),
        sa.UniqueConstraint("partner_id", "email", name=op.f("uq_users_partner_id_email")),
    )
    op.create_table(
        "vault_keys",
        sa.Column("key_name", sa.String(length=64), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("key_name", name=op.f("pk_vault_keys")),
    )


def downgrade() -> None:
    raise NotImplementedError
