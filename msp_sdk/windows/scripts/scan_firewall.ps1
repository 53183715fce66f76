# script: scan-firewall
# version: 1
# writes: no
# Which profiles of the Windows Firewall are on, as they are in force (local policy and Group Policy together).
# Input:  nothing.
# Output: profiles (name and enabled of each), service_state (of MpsSvc, or null).
param($Parameters)
$ErrorActionPreference = 'Stop'

$profiles = @()
foreach ($entry in @(Get-NetFirewallProfile -PolicyStore ActiveStore -ErrorAction Stop)) {
    # Name is Domain, Private or Public in every language; Enabled is an enumeration, 1 for on.
    $profiles += @{
        name = [string]$entry.Name
        enabled = ([int]$entry.Enabled -eq 1)
    }
}
$state = $null
$service = Get-CimInstance -ClassName Win32_Service -Filter "Name = 'MpsSvc'"
if ($service) {
    $state = ([string]$service.State).ToLowerInvariant()
}
@{
    profiles = @($profiles)
    service_state = $state
}
