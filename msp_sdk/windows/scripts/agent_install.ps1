# script: agent-install
# version: 1
# writes: yes
# Brings the agent to the wished state: stop, swap, start; rolled back when it does not start. Repeating it is safe.
# Input:  service_name, display_name, install_folder, file_name, sha256 (of the file that shall run), config_name (or
#         null), config (base64 of its bytes, or null), stage_id, known_sha256 (digests that may be replaced; a file
#         with any other is not touched).
# Output: changed, recovered (an earlier run had been cut off), service_state.
# Ends with changed-since-plan, digest-mismatch, blocked-by-antivirus, install-failed or script-failed.
param($Parameters)
$ErrorActionPreference = 'Stop'

$serviceName = [string]$Parameters.service_name
$wanted = [string]$Parameters.sha256
$folder = [Environment]::ExpandEnvironmentVariables([string]$Parameters.install_folder)
$file = [IO.Path]::Combine($folder, [string]$Parameters.file_name)
$stageId = [string]$Parameters.stage_id
if ($stageId -notmatch '^[A-Za-z0-9-]{1,64}$') {
    Stop-Script 'script-failed' 'stage_id is not a plain name.'
}
$stage = [IO.Path]::Combine([Environment]::ExpandEnvironmentVariables('%ProgramData%\msp\stage'), $stageId)
$staged = [IO.Path]::Combine($stage, [string]$Parameters.file_name)
$config = $null
$configBytes = $null
if ($Parameters.config_name) {
    $config = [IO.Path]::Combine($folder, [string]$Parameters.config_name)
    $configBytes = [Convert]::FromBase64String([string]$Parameters.config)
}

function Get-StreamDigest {
    param($Stream)
    $hasher = [Security.Cryptography.SHA256]::Create()
    try {
        return [BitConverter]::ToString($hasher.ComputeHash($Stream)).Replace('-', '').ToLowerInvariant()
    } finally {
        $hasher.Dispose()
    }
}

function Get-FileDigest {
    param([string]$Path)
    if (-not [IO.File]::Exists($Path)) {
        return $null
    }
    $stream = New-Object System.IO.FileStream($Path, 'Open', 'Read', 'Read, Delete')
    try {
        return Get-StreamDigest $stream
    } finally {
        $stream.Dispose()
    }
}

function Get-Agent {
    $name = $serviceName.Replace("'", "''")
    Get-CimInstance -ClassName Win32_Service -Filter "Name = '$name'"
}

function Stop-Agent {
    if (Get-Agent) {
        Stop-Service -Name $serviceName -Force -ErrorAction Stop
        (Get-Service -Name $serviceName).WaitForStatus('Stopped', [TimeSpan]::FromSeconds(30))
    }
}

function Wait-Unlocked {
    param([string]$Path)
    # A service counts as stopped a little before its process has ended and let go of its file.
    for ($try = 0; [IO.File]::Exists($Path); $try++) {
        try {
            $stream = New-Object System.IO.FileStream($Path, 'Open', 'ReadWrite', 'None')
            $stream.Dispose()
            return
        } catch {
            if ($try -ge 60) {
                throw
            }
            Start-Sleep -Milliseconds 500
        }
    }
}

function Start-Agent {
    Start-Service -Name $serviceName -ErrorAction Stop
    (Get-Service -Name $serviceName).WaitForStatus('Running', [TimeSpan]::FromSeconds(30))
    # A service that ends at once was running for a moment.
    Start-Sleep -Seconds 2
    if ([string](Get-Service -Name $serviceName).Status -ne 'Running') {
        throw 'the service stopped right after its start.'
    }
}

function Set-Content-Exactly {
    param([string]$Path, [byte[]]$Bytes)
    $part = "$Path.new"
    [IO.File]::WriteAllBytes($part, $Bytes)
    if ([IO.File]::Exists($Path)) {
        [IO.File]::Replace($part, $Path, "$Path.previous", $true)
    } else {
        [IO.File]::Move($part, $Path)
    }
}

function Undo-Swap {
    param([string]$Path)
    if ([IO.File]::Exists("$Path.previous")) {
        [IO.File]::Delete($Path)
        [IO.File]::Move("$Path.previous", $Path)
    }
}

$mutex = New-Object System.Threading.Mutex($false, "Global\msp-agent-$serviceName")
try {
    $held = $mutex.WaitOne(60000)
} catch [System.Threading.AbandonedMutexException] {
    $held = $true
}
if (-not $held) {
    Stop-Script 'script-failed' 'another deployment is at work on this host.'
}
try {
    $recovered = $false
    if (-not [IO.File]::Exists($file) -and [IO.File]::Exists("$file.previous")) {
        # An earlier run was cut off between taking the old file away and bringing the new one.
        [IO.File]::Move("$file.previous", $file)
        $recovered = $true
    }
    $current = Get-FileDigest $file
    if ($current -and $current -ne $wanted -and @($Parameters.known_sha256) -notcontains $current) {
        Stop-Script 'changed-since-plan' "the file there has the digest $current."
    }
    $service = Get-Agent
    $fresh = -not $service
    $wasRunning = $service -and [string]$service.State -eq 'Running'
    $pathOk = $service -and ([string]$service.PathName).Trim('"') -eq $file
    $sameFile = $current -eq $wanted
    $sameConfig = $true
    if ($config) {
        $sameConfig = [IO.File]::Exists($config) -and
            [Convert]::ToBase64String([IO.File]::ReadAllBytes($config)) -eq [string]$Parameters.config
    }
    if ($sameFile -and $sameConfig -and $wasRunning -and $pathOk) {
        $changed = $false
    } else {
        $changed = $true
        $fileSwapped = $false
        $configSwapped = $false
        [void][IO.Directory]::CreateDirectory($folder)
        try {
            Stop-Agent
            if (-not $sameFile) {
                Wait-Unlocked $file
                if (-not [IO.File]::Exists($staged)) {
                    Stop-Script 'blocked-by-antivirus' 'the staged file is gone.'
                }
                # Nobody can write to the staged file from its digest to the end of the copy.
                $source = New-Object System.IO.FileStream($staged, 'Open', 'Read', 'Read')
                try {
                    if ((Get-StreamDigest $source) -ne $wanted) {
                        Stop-Script 'digest-mismatch' 'the staged file is another one.'
                    }
                    $source.Position = 0
                    $copy = New-Object System.IO.FileStream("$file.new", 'Create', 'Write', 'None')
                    try {
                        $source.CopyTo($copy)
                        $copy.Flush($true)
                    } finally {
                        $copy.Dispose()
                    }
                } finally {
                    $source.Dispose()
                }
                if ([IO.File]::Exists($file)) {
                    [IO.File]::Replace("$file.new", $file, "$file.previous", $true)
                } else {
                    [IO.File]::Move("$file.new", $file)
                }
                $fileSwapped = $true
                if ((Get-FileDigest $file) -ne $wanted) {
                    Stop-Script 'blocked-by-antivirus' 'the file changed or vanished in its place.'
                }
            }
            if (-not $sameConfig) {
                Set-Content-Exactly $config $configBytes
                $configSwapped = $true
            }
            if ($fresh) {
                [void](New-Service -Name $serviceName -BinaryPathName "`"$file`"" -DisplayName ([string]$Parameters.display_name) -StartupType Automatic)
            } elseif (-not $pathOk) {
                $answer = Invoke-CimMethod -InputObject $service -MethodName Change -Arguments @{ PathName = "`"$file`"" }
                if ($answer.ReturnValue -ne 0) {
                    throw "the service's path could not be changed: $($answer.ReturnValue)."
                }
            }
            Start-Agent
        } catch {
            $cause = $_.Exception
            $code = [string]$cause.Data['msp-code']
            if ($code -eq '') {
                $code = 'install-failed'
            }
            $undone = 'nothing had been there before'
            try {
                Stop-Agent
                Wait-Unlocked $file
                if ($fresh) {
                    $made = Get-Agent
                    if ($made) {
                        [void](Invoke-CimMethod -InputObject $made -MethodName Delete)
                    }
                }
                if ($fileSwapped) {
                    if ([IO.File]::Exists("$file.previous")) {
                        Undo-Swap $file
                        $undone = 'rolled back to the file before'
                    } else {
                        [IO.File]::Delete($file)
                    }
                }
                if ($configSwapped) {
                    if ([IO.File]::Exists("$config.previous")) {
                        Undo-Swap $config
                    } else {
                        [IO.File]::Delete($config)
                    }
                }
                [IO.File]::Delete("$file.new")
                if ($wasRunning) {
                    Start-Agent
                }
            } catch {
                $undone = "rolling back failed: $($_.Exception.Message)"
            }
            Stop-Script $code "$($cause.Message) ($undone)"
        }
    }
    # What is left of this run and of the one before.
    [IO.File]::Delete("$file.previous")
    if ($config) {
        [IO.File]::Delete("$config.previous")
    }
    if ([IO.Directory]::Exists($stage)) {
        [IO.Directory]::Delete($stage, $true)
    }
} finally {
    $mutex.ReleaseMutex()
    $mutex.Dispose()
}
@{
    changed = $changed
    recovered = $recovered
    service_state = ([string](Get-Agent).State).ToLowerInvariant()
}
