# script: upload
# version: 1
# writes: yes
# Appends the payload to a file in this upload's own folder, and says how much of the file lies there now.
# Input:  upload_id, file_name, offset (where the payload belongs; null only asks), size_bytes and sha256 (of the whole),
#         restart (what lies there is given up).
# Output: path, held_bytes, held_sha256 (of all that lies there; null while more is to come and nobody asked).
# Nothing is appended where the file does not end at the offset: the answer tells where it does.
# Ends with disk-full, digest-mismatch (the whole is there and is another; it is given up), blocked-by-antivirus or
# script-failed.
param($Parameters)
$ErrorActionPreference = 'Stop'

$uploadId = [string]$Parameters.upload_id
$fileName = [string]$Parameters.file_name
if ($uploadId -notmatch '^[A-Za-z0-9-]{1,64}$' -or $fileName -notmatch '^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$') {
    Stop-Script 'script-failed' 'upload_id or file_name is not a plain name.'
}
$base = [Environment]::ExpandEnvironmentVariables('%ProgramData%\msp')
$uploads = [IO.Path]::Combine($base, 'uploads')
$folder = [IO.Path]::Combine($uploads, $uploadId)
$path = [IO.Path]::Combine($folder, $fileName)
$size = [long]$Parameters.size_bytes
New-ClosedFolder $base
New-ClosedFolder $uploads
foreach ($old in [IO.Directory]::GetDirectories($uploads)) {
    # Of uploads that were given up; nobody else takes them away.
    if ([IO.Directory]::GetLastWriteTimeUtc($old) -lt [DateTime]::UtcNow.AddDays(-7)) {
        try {
            [IO.Directory]::Delete($old, $true)
        } catch {
            $null = $_
        }
    }
}
New-ClosedFolder $folder
if ([IO.File]::Exists($path) -and ([IO.File]::GetAttributes($path) -band [IO.FileAttributes]::ReparsePoint) -ne 0) {
    Stop-Script 'script-failed' "$path is a link; it is not written to."
}
$digest = $null
$hasher = [Security.Cryptography.SHA256]::Create()
$stream = $null
try {
    # Until it is closed nobody else writes: what is hashed is what lies there.
    $stream = New-Object System.IO.FileStream($path, 'OpenOrCreate', 'ReadWrite', 'Read')
    if ($Parameters.restart) {
        $stream.SetLength(0)
    }
    $drive = New-Object System.IO.DriveInfo([IO.Path]::GetPathRoot($base))
    if ($drive.AvailableFreeSpace -lt $size - $stream.Length) {
        Stop-Script 'disk-full' "$($drive.AvailableFreeSpace) bytes are free."
    }
    $asked = $null -eq $Parameters.offset
    if (-not $asked -and [long]$Parameters.offset -eq $stream.Length) {
        $stream.Position = $stream.Length
        Read-Payload $stream
        $stream.Flush($true)
    }
    $held = $stream.Length
    if ($asked -or $held -ge $size) {
        $stream.Position = 0
        $digest = [BitConverter]::ToString($hasher.ComputeHash($stream)).Replace('-', '').ToLowerInvariant()
    }
    if ($held -ge $size -and $digest -ne [string]$Parameters.sha256) {
        $stream.SetLength(0)
        Stop-Script 'digest-mismatch' "$held bytes with the digest $digest lay there; they were given up."
    }
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
if (-not [IO.File]::Exists($path)) {
    Stop-Script 'blocked-by-antivirus' 'the file was gone as soon as it was written.'
}
@{
    path = $path
    held_bytes = $held
    held_sha256 = $digest
}
