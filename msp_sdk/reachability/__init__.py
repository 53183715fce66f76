"""Is a host on, which of its doors is open, and if none: why not."""

from msp_sdk.reachability.cache import ReachabilityCache
from msp_sdk.reachability.diagnosis import Diagnosis, Sign, diagnose
from msp_sdk.reachability.life import LifeLooker
from msp_sdk.reachability.prober import ReachabilityProber

__all__ = ["Diagnosis", "LifeLooker", "ReachabilityCache", "ReachabilityProber", "Sign", "diagnose"]
