"""config.yaml: atomic, private, and honest when it is damaged."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from msp_sdk.errors import ConfigError
from msp_sdk.models.partner import Partner
from msp_sdk.models.provision import Enrolment
from msp_sdk.provisioning import key_provider, load_config, save_config
from msp_sdk.secret import Secret


def make_enrolment(key: str = "ak_s1_abc") -> Enrolment:
    return Enrolment(
        site_id="s1",
        appliance_id="s1-00:11:22:33:44:55",
        api_key=Secret(key),
        api_endpoint="http://127.0.0.1:1",
        checkin_interval_seconds=60.0,
        partner=Partner("p1", "acme", "Acmé"),
        provisioned_at=datetime(2026, 11, 23, 9, tzinfo=UTC),
        mac_address="00:11:22:33:44:55",
        hostname="box",
    )


def test_config_round_trips_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.yaml"
    save_config(path, make_enrolment())
    assert load_config(path) == make_enrolment()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["config.yaml"]


def test_config_holds_exactly_the_fields_of_the_contract(tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "config.yaml"
    save_config(path, make_enrolment())
    assert list(yaml.safe_load(path.read_text())) == [
        "site_id",
        "appliance_id",
        "api_key",
        "api_endpoint",
        "checkin_interval_seconds",
        "partner",
        "provisioned_at",
        "mac_address",
        "hostname",
    ]


def test_missing_config_says_that_the_appliance_is_not_claimed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "config.yaml")
    assert caught.value.code == "not-claimed"


def test_config_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    save_config(path, make_enrolment())
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_config(path)


@pytest.mark.parametrize("text", ["api_key: ak_topsecret_9\nsite_id: [", "api_key: ak_topsecret_9\n", "ak_topsecret_9"])
def test_damaged_config_is_refused_without_showing_the_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "topsecret" not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caught.value.context}"


def test_every_part_reads_the_key_at_use_from_one_place(tmp_path: Path) -> None:
    """Lesson 2: a key that was changed is used at once, everywhere."""
    path = tmp_path / "config.yaml"
    save_config(path, make_enrolment("ak_s1_old"))
    provider = key_provider(path)
    assert provider().reveal() == "ak_s1_old"
    save_config(path, make_enrolment("ak_s1_new"))
    assert provider().reveal() == "ak_s1_new"
