# script: scan-defender
# version: 2
# writes: no
# Whether Microsoft Defender runs and protects this host, and which other antivirus is registered (workstations only).
# Input:  nothing.
# Output: present, antivirus_enabled, real_time_protection, signature_age_days, tamper_protection (each null where
#         Defender is not present; the last one also where its version knows no such thing), other_products (display
#         names; null where Windows keeps no such list or does not give it).
param($Parameters)
$ErrorActionPreference = 'Stop'

$result = @{
    present = $false
    antivirus_enabled = $null
    real_time_protection = $null
    signature_age_days = $null
    tamper_protection = $null
    other_products = $null
}
# Where the service does not run, another product replaced Defender, or it was removed or switched off.
$service = Get-CimInstance -ClassName Win32_Service -Filter "Name = 'WinDefend'"
if ($service -and [string]$service.State -eq 'Running') {
    $status = Get-MpComputerStatus -ErrorAction Stop
    $result.present = $true
    $result.antivirus_enabled = [bool]$status.AntivirusEnabled
    $result.real_time_protection = [bool]$status.RealTimeProtectionEnabled
    $result.signature_age_days = [long]$status.AntivirusSignatureAge
    if ($status.PSObject.Properties['IsTamperProtected'] -and $null -ne $status.IsTamperProtected) {
        $result.tamper_protection = [bool]$status.IsTamperProtected
    }
}
$system = Get-CimInstance -ClassName Win32_OperatingSystem
# ProductType 1 is a workstation; servers have no Security Center.
if ([int]$system.ProductType -eq 1) {
    try {
        $others = @()
        $products = @(Get-CimInstance -Namespace 'root\SecurityCenter2' -ClassName AntiVirusProduct -ErrorAction Stop)
        foreach ($product in $products) {
            # This is the identifier of Defender itself; its display name differs between versions.
            $isDefender = [string]$product.instanceGuid -eq '{D68DDC3A-831F-4fae-9E44-DA132C1ACF46}'
            # Bits 12 to 15 of productState are 1 while the product is on.
            $isOn = ([int]$product.productState -band 0xF000) -eq 0x1000
            if (-not $isDefender -and $isOn) {
                $others += [string]$product.displayName
            }
        }
        $result.other_products = @($others)
    } catch {
        # The Security Center's service may be off; what Defender says of itself counts all the same.
        $result.other_products = $null
    }
}
$result
