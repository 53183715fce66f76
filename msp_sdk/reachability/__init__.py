"""Is a host on, which of its doors is open, and if none: why not."""

from msp_sdk.reachability.diagnosis import Diagnosis, diagnose
from msp_sdk.reachability.doctor import DoctorOptions, HostDoctor
from msp_sdk.reachability.doctor_directory import DomainDirectory
from msp_sdk.reachability.prober import ReachabilityProber

__all__ = ["Diagnosis", "DoctorOptions", "DomainDirectory", "HostDoctor", "ReachabilityProber", "diagnose"]
