# script: agent-state
# version: 1
# writes: no
# What stands of the agent on this host; touches nothing.
# Input:  service_name, install_folder (may name %ProgramFiles%), file_name, config_name (or null), stage_id (or null).
# Output: installed, version, file_sha256, config_sha256, service_state (or null), service_path_ok, staged_sha256,
#         disk_free_bytes. A digest is lower-case hex, null where there is no file.
param($Parameters)
$ErrorActionPreference = 'Stop'

function Get-FileDigest {
    param([string]$Path)
    if (-not [IO.File]::Exists($Path)) {
        return $null
    }
    # A running program is open for reading by others; nobody may write while it is read.
    $stream = New-Object System.IO.FileStream($Path, 'Open', 'Read', 'Read, Delete')
    $hasher = [Security.Cryptography.SHA256]::Create()
    try {
        return [BitConverter]::ToString($hasher.ComputeHash($stream)).Replace('-', '').ToLowerInvariant()
    } finally {
        $hasher.Dispose()
        $stream.Dispose()
    }
}

$folder = [Environment]::ExpandEnvironmentVariables([string]$Parameters.install_folder)
$file = [IO.Path]::Combine($folder, [string]$Parameters.file_name)
$version = $null
$installed = [IO.File]::Exists($file)
if ($installed) {
    $version = [Diagnostics.FileVersionInfo]::GetVersionInfo($file).ProductVersion
}
$configDigest = $null
if ($Parameters.config_name) {
    $configDigest = Get-FileDigest ([IO.Path]::Combine($folder, [string]$Parameters.config_name))
}
$stagedDigest = $null
if ($Parameters.stage_id) {
    $root = [Environment]::ExpandEnvironmentVariables('%ProgramData%\msp\stage')
    $staged = [IO.Path]::Combine($root, [string]$Parameters.stage_id, [string]$Parameters.file_name)
    $stagedDigest = Get-FileDigest $staged
}
$state = $null
$pathOk = $false
$name = ([string]$Parameters.service_name).Replace("'", "''")
$service = Get-CimInstance -ClassName Win32_Service -Filter "Name = '$name'"
if ($service) {
    # State of Win32_Service is English in every language of Windows.
    $state = ([string]$service.State).ToLowerInvariant()
    $pathOk = ([string]$service.PathName).Trim('"') -eq $file
}
$drive = New-Object System.IO.DriveInfo([IO.Path]::GetPathRoot($folder))
@{
    installed = $installed
    version = $version
    file_sha256 = Get-FileDigest $file
    config_sha256 = $configDigest
    service_state = $state
    service_path_ok = $pathOk
    staged_sha256 = $stagedDigest
    disk_free_bytes = $drive.AvailableFreeSpace
}
