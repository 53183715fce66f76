"""msp-sdk: from a provision code to agents running, as composable clients.

What is not built yet is not exported yet. Each name is imported when it is first asked for, so that a program pays
for what it uses: reading a model does not load an LDAP library.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msp_sdk.checkin import ApplianceStatus, CheckinClient, Outbox
    from msp_sdk.compliance import ComplianceScanner
    from msp_sdk.deployment import AgentDeployer
    from msp_sdk.discovery import DiscoveryOptions, DomainDiscoverer
    from msp_sdk.enumeration import ADEnumerator, EnumerationOptions
    from msp_sdk.errors import (
        BindRejectedError,
        CentralError,
        ClaimRejectedError,
        ConfigError,
        DeploymentError,
        DigestMismatchError,
        DirectoryError,
        DiscoveryError,
        EncryptionRefusedError,
        InstallFailedError,
        LogonError,
        LogonNotAllowedError,
        LogonRejectedError,
        MspError,
        NotAuthorisedHereError,
        NotEnrolledError,
        PartialResultError,
        RateLimitedError,
        ScriptFailedError,
        SignatureRejectedError,
        StateError,
        TransportError,
        TransportTimeoutError,
        UnreachableError,
        UnsupportedVersionError,
        WindowsError,
        WireError,
        WrongHostError,
    )
    from msp_sdk.models.appliance import DeviceIdentity
    from msp_sdk.models.checkin import CheckinReply, SitePolicy
    from msp_sdk.models.compliance import CheckResult
    from msp_sdk.models.computer import Computer, Enumeration
    from msp_sdk.models.credential import Credential, CredentialSource, TrustedCertificate
    from msp_sdk.models.domain import Domain, DomainController, DomainDiscovery
    from msp_sdk.models.finding import Examination, Finding, Verdict
    from msp_sdk.models.package import AgentPackage, PackageManifest
    from msp_sdk.models.provision import Enrolment
    from msp_sdk.models.reason import Reason, reason
    from msp_sdk.models.rollout import Outcome, PlannedAction, Rollout, RolloutPlan
    from msp_sdk.models.target import ManualTarget, MergeResult, SkippedTarget, Target
    from msp_sdk.network.logons import LogonLedger
    from msp_sdk.partner import PartnerClient
    from msp_sdk.provisioning import ProvisioningClient
    from msp_sdk.reachability import ReachabilityProber
    from msp_sdk.reachability.doctor import DoctorOptions, HostDoctor
    from msp_sdk.secret import Secret
    from msp_sdk.security.device_keys import DevicePrivateKeys
    from msp_sdk.targets import TargetMerger
    from msp_sdk.windows.shell import HostPolicy, WindowsShells

__all__ = [
    "ADEnumerator",
    "AgentDeployer",
    "AgentPackage",
    "ApplianceStatus",
    "BindRejectedError",
    "CentralError",
    "CheckResult",
    "CheckinClient",
    "CheckinReply",
    "ClaimRejectedError",
    "ComplianceScanner",
    "Computer",
    "ConfigError",
    "Credential",
    "CredentialSource",
    "DeploymentError",
    "DeviceIdentity",
    "DevicePrivateKeys",
    "DigestMismatchError",
    "DirectoryError",
    "DiscoveryError",
    "DiscoveryOptions",
    "DoctorOptions",
    "Domain",
    "DomainController",
    "DomainDiscoverer",
    "DomainDiscovery",
    "EncryptionRefusedError",
    "Enrolment",
    "Enumeration",
    "EnumerationOptions",
    "Examination",
    "Finding",
    "HostDoctor",
    "HostPolicy",
    "InstallFailedError",
    "LogonError",
    "LogonLedger",
    "LogonNotAllowedError",
    "LogonRejectedError",
    "ManualTarget",
    "MergeResult",
    "MspError",
    "NotAuthorisedHereError",
    "NotEnrolledError",
    "Outbox",
    "Outcome",
    "PackageManifest",
    "PartialResultError",
    "PartnerClient",
    "PlannedAction",
    "ProvisioningClient",
    "RateLimitedError",
    "ReachabilityProber",
    "Reason",
    "Rollout",
    "RolloutPlan",
    "ScriptFailedError",
    "Secret",
    "SignatureRejectedError",
    "SitePolicy",
    "SkippedTarget",
    "StateError",
    "Target",
    "TargetMerger",
    "TransportError",
    "TransportTimeoutError",
    "TrustedCertificate",
    "UnreachableError",
    "UnsupportedVersionError",
    "Verdict",
    "WindowsError",
    "WindowsShells",
    "WireError",
    "WrongHostError",
    "reason",
]

_HOME = {
    "ADEnumerator": "msp_sdk.enumeration",
    "AgentDeployer": "msp_sdk.deployment",
    "AgentPackage": "msp_sdk.models.package",
    "ApplianceStatus": "msp_sdk.checkin",
    "BindRejectedError": "msp_sdk.errors",
    "CentralError": "msp_sdk.errors",
    "CheckResult": "msp_sdk.models.compliance",
    "CheckinClient": "msp_sdk.checkin",
    "CheckinReply": "msp_sdk.models.checkin",
    "ClaimRejectedError": "msp_sdk.errors",
    "ComplianceScanner": "msp_sdk.compliance",
    "Computer": "msp_sdk.models.computer",
    "ConfigError": "msp_sdk.errors",
    "Credential": "msp_sdk.models.credential",
    "CredentialSource": "msp_sdk.models.credential",
    "DeploymentError": "msp_sdk.errors",
    "DeviceIdentity": "msp_sdk.models.appliance",
    "DevicePrivateKeys": "msp_sdk.security.device_keys",
    "DigestMismatchError": "msp_sdk.errors",
    "DirectoryError": "msp_sdk.errors",
    "DiscoveryError": "msp_sdk.errors",
    "DiscoveryOptions": "msp_sdk.discovery",
    "DoctorOptions": "msp_sdk.reachability.doctor",
    "Domain": "msp_sdk.models.domain",
    "DomainController": "msp_sdk.models.domain",
    "DomainDiscoverer": "msp_sdk.discovery",
    "DomainDiscovery": "msp_sdk.models.domain",
    "EncryptionRefusedError": "msp_sdk.errors",
    "Enrolment": "msp_sdk.models.provision",
    "Enumeration": "msp_sdk.models.computer",
    "EnumerationOptions": "msp_sdk.enumeration",
    "Examination": "msp_sdk.models.finding",
    "Finding": "msp_sdk.models.finding",
    "HostDoctor": "msp_sdk.reachability.doctor",
    "HostPolicy": "msp_sdk.windows.shell",
    "InstallFailedError": "msp_sdk.errors",
    "LogonError": "msp_sdk.errors",
    "LogonLedger": "msp_sdk.network.logons",
    "LogonNotAllowedError": "msp_sdk.errors",
    "LogonRejectedError": "msp_sdk.errors",
    "ManualTarget": "msp_sdk.models.target",
    "MergeResult": "msp_sdk.models.target",
    "MspError": "msp_sdk.errors",
    "NotAuthorisedHereError": "msp_sdk.errors",
    "NotEnrolledError": "msp_sdk.errors",
    "Outbox": "msp_sdk.checkin",
    "Outcome": "msp_sdk.models.rollout",
    "PackageManifest": "msp_sdk.models.package",
    "PartialResultError": "msp_sdk.errors",
    "PartnerClient": "msp_sdk.partner",
    "PlannedAction": "msp_sdk.models.rollout",
    "ProvisioningClient": "msp_sdk.provisioning",
    "RateLimitedError": "msp_sdk.errors",
    "ReachabilityProber": "msp_sdk.reachability",
    "Reason": "msp_sdk.models.reason",
    "Rollout": "msp_sdk.models.rollout",
    "RolloutPlan": "msp_sdk.models.rollout",
    "ScriptFailedError": "msp_sdk.errors",
    "Secret": "msp_sdk.secret",
    "SignatureRejectedError": "msp_sdk.errors",
    "SitePolicy": "msp_sdk.models.checkin",
    "SkippedTarget": "msp_sdk.models.target",
    "StateError": "msp_sdk.errors",
    "Target": "msp_sdk.models.target",
    "TargetMerger": "msp_sdk.targets",
    "TransportError": "msp_sdk.errors",
    "TransportTimeoutError": "msp_sdk.errors",
    "TrustedCertificate": "msp_sdk.models.credential",
    "UnreachableError": "msp_sdk.errors",
    "UnsupportedVersionError": "msp_sdk.errors",
    "Verdict": "msp_sdk.models.finding",
    "WindowsError": "msp_sdk.errors",
    "WindowsShells": "msp_sdk.windows.shell",
    "WireError": "msp_sdk.errors",
    "WrongHostError": "msp_sdk.errors",
    "reason": "msp_sdk.models.reason",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
