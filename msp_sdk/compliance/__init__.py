"""Check hosts: is the firewall on, is there protection against malicious software."""

from msp_sdk.compliance.checks import CHECKS, Check
from msp_sdk.compliance.scanner import ComplianceScanner, ScanOptions

__all__ = ["CHECKS", "Check", "ComplianceScanner", "ScanOptions"]
