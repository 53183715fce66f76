# script: agent-stage
# version: 2
# writes: yes
# Writes the payload, the agent's file, into this run's own staging folder and says what arrived there.
# Input:  stage_id, file_name, service_name, size_bytes; the payload is the file.
# Output: size_bytes, sha256 (of the file as it lies there, read from a handle that lets nobody write).
# Ends with disk-full, blocked-by-antivirus or script-failed.
param($Parameters)
$ErrorActionPreference = 'Stop'

$stageId = [string]$Parameters.stage_id
if ($stageId -notmatch '^[A-Za-z0-9-]{1,64}$') {
    Stop-Script 'script-failed' 'stage_id is not a plain name.'
}
$base = [Environment]::ExpandEnvironmentVariables('%ProgramData%\msp')
$stage = [IO.Path]::Combine($base, 'stage')
$folder = [IO.Path]::Combine($stage, $stageId)
$final = [IO.Path]::Combine($folder, [string]$Parameters.file_name)
$drive = New-Object System.IO.DriveInfo([IO.Path]::GetPathRoot($base))
# The staged file, the new file and the old one lie there together for a moment.
if ($drive.AvailableFreeSpace -lt 3 * [long]$Parameters.size_bytes) {
    Stop-Script 'disk-full' "$($drive.AvailableFreeSpace) bytes are free."
}
$mutex = New-Object System.Threading.Mutex($false, "Global\msp-agent-$($Parameters.service_name)")
try {
    $held = $mutex.WaitOne(60000)
} catch [System.Threading.AbandonedMutexException] {
    $held = $true
}
if (-not $held) {
    Stop-Script 'script-failed' 'another deployment is at work on this host.'
}
try {
    New-ClosedFolder $base
    New-ClosedFolder $stage
    foreach ($old in [IO.Directory]::GetDirectories($stage)) {
        # Of runs that were given up; nobody else takes it away.
        if ([IO.Directory]::GetCreationTimeUtc($old) -lt [DateTime]::UtcNow.AddDays(-7)) {
            try {
                [IO.Directory]::Delete($old, $true)
            } catch {
                $null = $_
            }
        }
    }
    New-ClosedFolder $folder
    # What lies there may be a link to another file: it is removed, not written through.
    [IO.File]::Delete($final)
    $hasher = [Security.Cryptography.SHA256]::Create()
    $stream = $null
    try {
        [void](Save-Payload $final)
        if (-not [IO.File]::Exists($final)) {
            Stop-Script 'blocked-by-antivirus' 'the file was gone as soon as it was written.'
        }
        $stream = New-Object System.IO.FileStream($final, 'Open', 'Read', 'Read')
        $digest = [BitConverter]::ToString($hasher.ComputeHash($stream)).Replace('-', '').ToLowerInvariant()
        $length = $stream.Length
    } catch {
        $cause = $_.Exception.GetBaseException()
        # ERROR_VIRUS_INFECTED and ERROR_VIRUS_DELETED.
        if (@(-2147024671, -2147024670) -contains $cause.HResult) {
            Stop-Script 'blocked-by-antivirus' $cause.Message
        }
        # ERROR_DISK_FULL and ERROR_HANDLE_DISK_FULL.
        if (@(-2147024784, -2147024857) -contains $cause.HResult) {
            Stop-Script 'disk-full' $cause.Message
        }
        throw
    } finally {
        if ($stream) {
            $stream.Dispose()
        }
        $hasher.Dispose()
    }
} finally {
    $mutex.ReleaseMutex()
    $mutex.Dispose()
}
@{
    size_bytes = $length
    sha256 = $digest
}
