"""Is a host on, which of its doors is open, and if none: why not."""

from msp_sdk.reachability.diagnosis import Diagnosis, diagnose
from msp_sdk.reachability.prober import ReachabilityProber

__all__ = ["Diagnosis", "ReachabilityProber", "diagnose"]
