# script: scan-firewall
# version: 2
# writes: no
# Which profiles of the Windows Firewall are on, as they are in force (local policy and Group Policy together).
# Input:  nothing.
# Output: profiles (name and enabled of each; empty while the service does not run, since it is the one that knows),
#         service_state (of MpsSvc, or null).
param($Parameters)
$ErrorActionPreference = 'Stop'

$state = $null
$service = Get-CimInstance -ClassName Win32_Service -Filter "Name = 'MpsSvc'"
if ($service) {
    $state = ([string]$service.State).ToLowerInvariant()
}
$profiles = @()
if ($state -eq 'running') {
    foreach ($entry in @(Get-NetFirewallProfile -PolicyStore ActiveStore -ErrorAction Stop)) {
        # Name is Domain, Private or Public in every language; Enabled is an enumeration, 1 for on.
        $profiles += @{
            name = [string]$entry.Name
            enabled = ([int]$entry.Enabled -eq 1)
        }
    }
}
@{
    profiles = @($profiles)
    service_state = $state
}
