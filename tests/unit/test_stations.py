"""Which machines are left to their vendor by what they are called, and which are not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from msp_sdk.directory.entry import Entry
from msp_sdk.enumeration.classify import classify
from msp_sdk.enumeration.systems import VendorRules
from msp_sdk.models.computer import Computer
from msp_sdk.testing.directory_data import make_computer_entry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
# Host names, by what they are.
STATIONS = """
CT01 CT-01 CT1A MR_2 XR1 OPG OCT1 MG1 US1 US-01 CLINIC-US2 CT GE-CT1 GE-CT PHILIPS-MR SIEMENSCT GECT1 AGFA-DR
SIRONA-IO TOPCON-OCT2 HEIDELBERG-OCT RAD-CT CT-RAD CLINIC-MR CATHLAB1 C-ARM2 CARM2 DEXA PETCT1 CTSCAN1 CBCT1
PLANMECA1 CT1-CONSOLE US-SCANNER CT1-PC MR1-WS1 CT01-WS05 POS01 POS-02 STORE12-POS3 SHOP-KASSE KASSE2 TILL3 REG01
CAJA1 EPOS1
"""
ORDINARY = """
US-NYC-01 MR-SMITH-PC CT-OFFICE HARTFORD-CT PET-SHOP PET-SHOP-1 CT-WS01 US01-WS05 US1-SRV2 SRV-US1 DC01-US1 NYC-US
NM-WS1 DR1 DR-SMITH IMAGING01 TILL-PC GE-OFFICE SIEMENS-PC CANON-PRN1 CT-1042 US-1001 POSTER REGION1 ACCT01
DIRECT01 PRODUCT1 DESKTOP-CT0A1B2 DESKTOP-US1AB LAPTOP-MR34FG MRSMITH USER1 CR-OFFICE
"""


def judge(name: str, **more) -> Computer:
    made = make_computer_entry(name, "Windows 10 Pro", domain="northvalley.test", seen_at=NOW, **more)
    found = classify(Entry(made.dn, made.folded), domain_name="northvalley.test", now=NOW)
    assert isinstance(found, Computer)
    return found


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("PACS01", {}),
        ("CT-SCANNER-2", {}),
        ("MRI2", {}),
        ("WS77", {"description": "Syngo workplace, room 3"}),
        ("WS78", {"description": "Ultra-Sound trolley"}),
        ("WS79", {"ou": "OU=Modalities,OU=Clinic"}),
        ("WS80", {"description": "Siemens CT, room 1"}),
        ("WS81", {"description": "Cath lab 2"}),
        ("WS82", {"description": "POS terminal at the entrance"}),
    ],
)
def test_known_imaging_stations_are_left_to_their_vendor(name, more):
    # Lesson 61.
    assert judge(name, **more).skipped_reason == "vendor-managed"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("CT-WS01", {}),
        ("SPACESHIP", {}),
        ("PET-SHOP-1", {}),
        ("US-NYC-SRV1", {}),
        ("DICOMMON", {}),
        ("WS80", {"description": "Reception, next to the CT"}),
        ("WS81", {"ou": "OU=Radiology,OU=Clinic"}),
        ("WS82", {"description": "Printer / CR scanner"}),
        ("WS83", {"description": "US console room 2"}),
        ("WS84", {"description": "Till Schmidt, Kasse"}),
        ("WS85", {"description": "Canon, Mr Smith's US office"}),
    ],
)
def test_a_word_of_everyday_life_makes_no_imaging_station(name, more):
    assert judge(name, **more).skipped_reason is None


@pytest.mark.parametrize("name", STATIONS.split())
def test_a_host_name_that_is_a_modality_or_a_till_is_left_to_its_vendor(name):
    # Lesson 61: in doubt it is the patient's device; a person approves what it is not.
    assert judge(name).skipped_reason == "vendor-managed"


@pytest.mark.parametrize("name", ORDINARY.split())
def test_a_host_name_with_a_place_a_title_or_an_asset_number_is_an_ordinary_one(name):
    assert judge(name).skipped_reason is None


def test_codes_in_host_names_can_be_left_out_of_account():
    assert VendorRules().names("CT01", None)
    assert not VendorRules(codes=False).names("CT01", None)
