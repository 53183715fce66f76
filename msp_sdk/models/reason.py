# ruff: noqa: E501 (one row a reason reads better than five lines)
"""Every reason why a computer has no agent, a logon failed or a check has no answer, with its remedy.

One table for the whole project: the wire carries the code, and every screen takes title and remedy from here.
A code that is not in the table is a defect, and :func:`reason` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import frozen

from msp_sdk.errors import MspError, StateError


@frozen
class Reason:
    """Why something is as it is.

    Attributes:
        code: Stable slug.
        title: What is the case, in plain words.
        remedy: What a person can do; empty when nothing needs doing.
    """

    code: str
    title: str
    remedy: str = ""


_TABLE = (
    # What is not a target, and why.
    Reason("disabled-account", "The computer account is disabled.", "Enable or delete the account in the directory."),
    Reason("stale", "No sign of life in the directory for over 90 days.", "Delete the account if the computer is gone."),
    Reason("new", "The account is new and carries no operating system or name yet.", "It is read again after its first start."),
    Reason("pre-staged", "The account was made ahead of its computer, which has never logged on.", "Join the computer, or delete the account if it will not come."),
    Reason("unknown-os", "The directory does not say what system the computer runs.", "Restart the computer in the domain; Windows then writes it."),
    Reason("cloud-account", "This is an account of Entra ID or Azure Files, not a machine.", "Leave the account alone: people sign in by it."),
    Reason("not-windows", "The computer does not run Windows.", ""),
    Reason("no-name", "The directory holds no host name for this computer, or one that can be none.", "Start the computer once in the domain."),
    Reason("cluster-name", "This is the name of a cluster, not a machine.", ""),
    Reason("domain-controller", "Domain controllers get no agent unless a rollout asks for them.", "Name the role in a rollout to include it."),
    Reason("role-not-in-scope", "The rollout does not cover this role.", "Add the role to the rollout."),
    Reason("excluded", "A person excluded this computer.", "Remove the exclusion from the manual targets."),
    Reason("unsupported-os", "This version of Windows is too old for us.", "Update Windows; Windows PowerShell 5.1 is the least."),
    Reason("vendor-managed", "The vendor of this machine manages it.", "Approve it by hand if the vendor agrees."),
    # How a host is reached, and why not.
    Reason("no-address", "The domain's DNS servers know no address for this name.", "Correct the DNS record."),
    Reason("no-answer", "Nothing answered: off, asleep, elsewhere, or a firewall that drops everything.", "Switch it on, or open TCP 5986 to the appliance."),
    Reason("winrm-closed", "The host is on, but WinRM is closed.", "Enable WinRM over HTTPS, by Group Policy for instance."),
    Reason("winrm-blocked", "The host is on, but what we send to WinRM is dropped, by its firewall or on the way.", "Open TCP 5986 to the appliance in the host's firewall."),
    Reason("not-at-address", "Nobody is at this address of our own subnet: the host is off, or elsewhere.", "Switch it on; if it is on, correct its DNS record."),
    Reason("address-excluded", "A person excluded this address, so nothing is sent to it.", "Take it out of the excluded networks."),
    Reason("no-route", "This machine has no way to the host's network.", "Connect this machine to the network, or give it a route."),
    Reason("connection-lost", "The connection broke while we worked.", "It is tried again by itself."),
    Reason("deadline-exceeded", "The host did not finish in time.", "It is tried again by itself."),
    Reason("certificate-untrusted", "The certificate is signed by nobody this site trusts.", "List the certificate or its CA at the site after looking at it."),
    Reason("certificate-changed", "The certificate is not the one that was pinned.", "Find out at the host why it changed, then `msp pins reset` and pin it anew."),
    Reason("wrong-host", "The machine at this address is another one.", "Correct the stale DNS record."),
    Reason("encryption-refused", "The host and we found no encrypted way to talk.", "Give WinRM an HTTPS listener."),
    Reason("outcome-unknown", "The connection broke while something was being changed; whether it was done is not known.", "It is looked at again before anything is repeated."),
    Reason("quota-exceeded", "The host has no remote shell left for this account.", "It is tried again by itself."),
    Reason("language-restricted", "Application control on this host restricts PowerShell's language.", "Allow full language for administrators there."),
    # Names and clocks on the way to a host.
    Reason("no-dns-server", "No DNS server is known.", "Give a resolver: a DNS server of the domain."),
    Reason("dns-no-answer", "The DNS servers do not answer.", "Check the way to the DNS servers (UDP and TCP 53), or give another resolver."),
    Reason("dns-refused", "The DNS servers refuse to answer us.", "Let them answer this machine, or give a DNS server of the domain."),
    Reason("dns-unreachable", "There is no way from this machine to the DNS servers.", "Connect this machine to the network, or give a resolver that it reaches."),
    Reason("dns-filtered", "A DNS filter answers for this name.", "Ask the domain's own DNS servers (give a resolver), or exempt the domain in the filter."),
    Reason("dns-differs", "The DNS servers give different answers for this name.", "Correct the record on the server that is wrong, and look at the replication of the zone."),
    Reason("reverse-name-differs", "Reverse DNS calls this address by another name.", "Correct the record that is stale: the address of the name, or the name of the address."),
    Reason("public-address", "The name leads to a public address, outside of this site's networks.", "If the host is inside, a filter or a DNS server of the internet answered: ask the domain's own DNS servers."),
    Reason("certificate-expired", "The certificate is not valid now.", "Renew the certificate of the host's WinRM listener; if its dates are right, correct the clock."),
    Reason("certificate-weak", "The certificate is signed or keyed too weakly to be believed.", "Give the WinRM listener a new certificate, with SHA-256 and a key of at least 2048 bits."),
    Reason("tls-too-old", "The host speaks no TLS as new as version 1.2.", "Enable TLS 1.2 on the host (Schannel)."),
    Reason("not-winrm", "What answers on the port of WinRM is something else.", "Find out what listens there (`netsh http show servicestate`), or whose address it is."),
    Reason("proxy-between", "A proxy or filter answers in the host's place.", "Let TCP 5985 and 5986 pass to the hosts without a proxy."),
    Reason("winrm-silent", "The port of WinRM is open, but what listens there does not answer.", "Restart the WinRM service on the host, and look for inspection in between."),
    Reason("no-mechanism", "WinRM offers no logon mechanism that we may use.", "Allow Negotiate or Kerberos in the WinRM service of the host (by Group Policy), never Basic alone."),
    Reason("execution-policy", "Group Policy restricts which scripts PowerShell runs there.", "Nothing for our own scripts, which are no files; modules that are not signed may fail to load."),
    Reason("duplicate-service-principal", "Several accounts claim this host's service name, so no KDC gives a ticket for it.", "Remove the servicePrincipalName from the wrong account (`setspn -X` finds it)."),
    # Reports.
    Reason("report-refused", "Central refused a report of this appliance for good.", "Update the appliance; its log names the report. The directory is read and reported again by itself."),
    Reason("entries-refused", "Central could not hold some entries of a report.", "The appliance's log names them; correct them in the directory."),
    # Logons.
    Reason("no-credential", "No credential is valid for this host.", "Store one at Central."),
    Reason("credential-unproven", "The credential has not yet been proven at a controller.", "It is tried again by itself once it is."),
    Reason("logons-in-flight", "As many logons of this credential as are safe are under way.", "It is tried again by itself."),
    Reason("credential-paused", "A host refused the proven credential; it is being proven again first.", "It is tried again by itself."),
    Reason("wrong-password", "The password was refused. It is never tried again.", "Correct the credential, or retry for exactly one more attempt."),
    Reason("no-such-user", "The directory does not know this user.", "Correct the user name."),
    Reason("account-restriction", "A restriction of the account forbids this logon.", "Look at the account's restrictions."),
    Reason("logon-hours", "The password is right, but the account may not log on at this hour.", "Widen the account's logon hours."),
    Reason("logon-workstation", "The password is right, but the account may not log on from here.", "Widen the account's list of workstations."),
    Reason("password-expired", "The password is right, but it has expired.", "Set a new password and store it at Central."),
    Reason("account-disabled", "The password is right, but the account is disabled.", "Enable the account."),
    Reason("logon-type", "The account may not log on over the network.", "Grant the account network logon."),
    Reason("account-expired", "The password is right, but the account has expired.", "Extend the account."),
    Reason("must-change-password", "The password is right, but the account must change it first.", "Change the password once and store it at Central."),
    Reason("account-locked", "The account is locked.", "Unlock the account, then retry."),
    Reason("channel-binding", "The server demands channel binding and did not get it.", "Report this: our side should have sent it."),
    Reason("signing-required", "The server demands signing or TLS for this bind.", "Give the controller a certificate, so that LDAPS works."),
    Reason("account-revoked", "The KDC says that the account is locked, disabled, expired or not yet valid; nothing is known of the password.", "Look at the account in the directory, then retry."),
    Reason("kdc-policy", "A rule of the domain forbids the account this logon: its hours, its workstations or an authentication policy.", "Look at the account's restrictions and authentication policy."),
    Reason("no-common-cipher", "The KDC has no key for this account that we may use; an old password has RC4 keys alone.", "Set the account's password anew, so that it gets AES keys."),
    Reason("no-host-cipher", "The KDC has no key of this host's account that we may use.", "Let the host set its account's password anew (`Reset-ComputerMachinePassword` there), and allow it AES (msDS-SupportedEncryptionTypes)."),
    Reason("no-service-principal", "The KDC does not know this service by the name that we use.", "Name the machine as the directory does (not by an address), and look at its servicePrincipalName."),
    Reason("other-domain-account", "The account is of another domain than the controller's: its KDC is not asked.", "Give the user as user@domain of its own domain."),
    Reason("netbios-unknown", "The domain's short name is not known, so this account may be another domain's: the KDC is not asked.", "Give the user as user@domain."),
    Reason("local-account", "The account is the host's own, which no KDC knows.", ""),
    Reason("kdc-unknown", "No KDC of the account's domain is known here.", "See that the domain is discovered, and that the account names it."),
    Reason("kdc-unreachable", "The KDC does not answer on TCP 88.", "Open TCP 88 from the appliance to the controllers, so that no certificate is needed."),
    Reason("kerberos-settings", "The Kerberos settings of this machine cannot be read, so that no Kerberos can be used here.", "Correct /etc/krb5.conf, or the file that KRB5_CONFIG names."),
    Reason("kerberos-missing", "The parts for Kerberos are not installed.", "Install msp-sdk[kerberos] (it needs MIT Kerberos), so that no certificate is needed."),
    Reason("kerberos-refused", "The machine or its KDC did not go through with Kerberos, although the password was not refused.", "Look at the account (does it demand a smart card?), and at the machine's own account and clock (its event log, Kerberos and Directory Service)."),
    Reason("clock-skew", "The clocks differ by more than five minutes.", "Correct the time of the appliance, the controller or the host."),
    Reason("logon-outcome-unknown", "Twice a logon was begun and its end not recorded.", "Retry for exactly one more attempt."),
    Reason("logon-unanswered", "The logon got no clear answer; whether the password was taken is not known.", "It may be tried once more, and is never tried a third time."),
    Reason("logon-refused", "The controller refused the logon for a reason that we do not know; it is not tried again.", "Look the code up in the detail, then retry for exactly one more attempt."),
    Reason("not-authorised-here", "The credential is right, but this host does not let it in.", "Make the account a local administrator there."),
    Reason("needs-local-administrator", "The account is no local administrator of this host.", "Make the account a local administrator there."),
    Reason("ntlm-not-allowed", "Only NTLM without TLS is possible here, and the site forbids it.", "Give WinRM an HTTPS listener, or allow NTLM at the site."),
    Reason("domain-admin-not-allowed", "The site does not let a domain administrator log on to hosts.", "Store a service account for hosts."),
    Reason("not-a-local-account", "A local administrator of a whole site can be neither an account of a domain nor used on a controller: refusals would add up and lock the account.", "Store a domain's account as service_account of its domain, a local one as .\\name."),
    Reason("waiting-for-lease", "Another appliance is proving this credential.", "It is given out once it is proven."),
    # Deployment.
    Reason("up-to-date", "The agent is there, in this version, configured and running.", ""),
    Reason("not-installed", "The agent is not installed.", ""),
    Reason("older-version", "An older version of the agent is installed.", ""),
    Reason("newer-version", "A newer version of the agent is installed; it is left alone.", "Roll that version out, or remove it first."),
    Reason("config-differs", "The agent's configuration is another one.", ""),
    Reason("service-stopped", "The agent's service is not running.", ""),
    Reason("removal-asked", "The rollout takes the agent away.", ""),
    Reason("changed-since-plan", "The host has changed since the plan was made.", "Plan again."),
    Reason("digest-mismatch", "The file on the host is not the one that was sent.", "It is delivered again."),
    Reason("blocked-by-antivirus", "The antivirus took the file away.", "Allow the agent in the antivirus."),
    Reason("disk-full", "The disk has too little room for the agent.", "Free some room."),
    Reason("install-failed", "The service could not be installed or started.", "Read the step and the detail."),
    Reason("script-failed", "The host answered without a result.", "Read the detail; the host's event log says more."),
    Reason("verification-failed", "The agent does not run as it was installed.", "Read the detail."),
    Reason("package-missing", "The package could not be had from Central.", "Upload the package's file."),
    # Discovery and directories.
    Reason("no-domain", "No Active Directory answered.", "Set targets by hand, or give a resolver and search domain."),
    Reason("unreachable-controller", "No controller of the domain could be reached.", "Check the network and the controllers."),
    Reason("no-tls", "The controller did not come to terms on TLS; without TLS no password is sent.", "Give the controller a certificate, so that LDAPS works."),
    Reason("dns-failed", "No DNS server gives a usable answer: it is not known whether there is a directory.", "Check the DNS servers, or give a resolver; named targets are worked on meanwhile."),
    Reason("not-in-a-directory", "The host is in the subnets, and no directory holds it.", "Name it as a target by hand, with a credential of its own."),
    Reason("directory-unread", "The host is in the subnets; whether a directory holds it is not known, since not all of it has been read.", "Store a credential for each domain at Central."),
    Reason("directory-failed", "The directory did not answer as it should.", "Read the detail."),
    Reason("partial-result", "The directory stopped half-way.", "It is read again by itself."),
    Reason("cursor-lost", "The directory cannot tell what has changed since the last reading.", "It is read in full by itself."),
    Reason("dirsync-refused", "The directory does not give its changes by DirSync.", ""),
    Reason("deleted", "It was deleted from the directory.", ""),
    Reason("out-of-scope", "It lies outside what belongs to this site.", "Widen the site's scope, or name it among the manual targets, if it does belong here."),
    Reason("domain-out-of-scope", "The site's scope names containers or groups of other domains alone, so nothing of this one is read.", "Name one of this domain too, or withdraw the domain's credential."),
    Reason("scope-not-found", "The site's scope names what the directory does not hold, or what this account does not see.", "Correct the site's scope."),
    Reason("no-cursor", "The directory cannot tell what changes: a new computer is seen only when all of it is read again, once an hour.", "Open LDAP (TCP 389 or 636) to the appliance; reading by WinRM is only the way out."),
    Reason("not-in-directory", "The directory does not hold it any more.", ""),
    # Checks.
    Reason("not-applicable", "The check does not apply to this computer.", ""),
    Reason("bad-config", "A setting cannot be used.", "Read the detail."),
    Reason("bad-pins", "The hosts' pinned certificates cannot be read.", "Repair the file, or remove it and pin the hosts again."),
    Reason("bad-trusted-ca", "A CA that the site trusts cannot be read.", "Correct the site's trusted CAs."),
    Reason("logon-failed", "The logon did not come about.", "Read the detail."),
    Reason("windows-failed", "The host could not be worked with.", "Read the detail."),
    Reason("too-large", "What was sent is more than the host takes.", "Read the detail."),
    Reason("internal", "Something failed on our side.", "Report this with the detail."),
)  # fmt: skip

REASONS: Mapping[str, Reason] = MappingProxyType({entry.code: entry for entry in _TABLE})

ACCOUNT_REASONS: frozenset[str] = frozenset(
    {
        "logon-hours",
        "logon-workstation",
        "password-expired",
        "account-disabled",
        "account-expired",
        "must-change-password",
        "account-revoked",
        "kdc-policy",
    }
)
"""What keeps an account out although its password was not found to be wrong: mending the account is enough."""


def reason(code: str) -> Reason:
    """Look a reason up.

    Raises:
        StateError: The code is not in the table. Not retryable.
    """
    try:
        return REASONS[code]
    except KeyError:
        message = f"there is no reason with the code {code!r}."
        raise StateError(message, code="unknown-reason") from None


def remedy_of(code: str) -> str:
    """The remedy for a code that may come from a newer peer; empty when it is not in our table."""
    known = REASONS.get(code)
    return known.remedy if known else ""


def reason_of(error: MspError) -> Reason:
    """The reason behind an error; ``internal`` when its code is no reason. The error's own remedy is the better one."""
    known = REASONS.get(error.code, REASONS["internal"])
    return Reason(known.code, known.title, error.remedy or known.remedy)
