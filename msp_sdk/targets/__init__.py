"""Merge what is known of hosts into targets: manual entries, credentials and the directory become one list."""

from msp_sdk.targets.merger import TargetMerger

__all__ = ["TargetMerger"]
