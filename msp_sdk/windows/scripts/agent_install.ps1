# script: agent-install
# version: 2
# writes: yes
# Brings the agent to the wished state: stop, swap, start; rolled back when it does not start. Repeating it is safe.
# A file beside its "previous" one whose service does not run is a swap that nobody has seen work: it is undone like
# one of this run.
# Input:  service_name, display_name, install_folder, file_name, sha256 (of the file that shall run), config_name (or
#         null), config (base64 of its bytes, or null), stage_id, known_sha256 (digests that may be replaced; a file
#         with any other is not touched).
# Output: changed, recovered (an earlier run had been cut off), service_state.
# Ends with changed-since-plan, digest-mismatch, blocked-by-antivirus, disk-full, install-failed or script-failed.
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
        # Without NoWait the cmdlet waits for ever for a service that hangs while it stops.
        Stop-Service -Name $serviceName -Force -NoWait -ErrorAction Stop
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

function Move-IntoPlace {
    param([string]$Path, [bool]$KeepPrevious)
    if (-not [IO.File]::Exists($Path)) {
        [IO.File]::Move("$Path.new", $Path)
    } elseif ($KeepPrevious) {
        # What lies there has never been seen to work; the one before it has.
        [IO.File]::Replace("$Path.new", $Path, [NullString]::Value, $true)
    } else {
        [IO.File]::Replace("$Path.new", $Path, "$Path.previous", $true)
    }
}

function Undo-Swap {
    param([string]$Path, [bool]$Swapped)
    # Replace may end half-way: the old file is put aside and the new one is not there.
    $halfway = [IO.File]::Exists("$Path.previous") -and -not [IO.File]::Exists($Path)
    if (-not $Swapped -and -not $halfway) {
        return
    }
    Wait-Unlocked $Path
    [IO.File]::Delete($Path)
    if ([IO.File]::Exists("$Path.previous")) {
        [IO.File]::Move("$Path.previous", $Path)
    }
}

function Get-FailureCode {
    param($Exception)
    $code = [string]$Exception.Data['msp-code']
    if ($code -ne '') {
        return $code
    }
    $number = $Exception.GetBaseException().HResult
    # ERROR_DISK_FULL and ERROR_HANDLE_DISK_FULL.
    if (@(-2147024784, -2147024857) -contains $number) {
        return 'disk-full'
    }
    # ERROR_VIRUS_INFECTED and ERROR_VIRUS_DELETED.
    if (@(-2147024671, -2147024670) -contains $number) {
        return 'blocked-by-antivirus'
    }
    return 'install-failed'
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
    $unseen = [IO.File]::Exists("$file.previous") -and -not $wasRunning
    $sameConfig = $true
    $unseenConfig = $false
    if ($config) {
        $unseenConfig = [IO.File]::Exists("$config.previous") -and -not $wasRunning
        # Letters of base64 that differ in case alone are other bytes.
        $sameConfig = [IO.File]::Exists($config) -and
            [Convert]::ToBase64String([IO.File]::ReadAllBytes($config)) -ceq [string]$Parameters.config
    }
    if ($sameFile -and $sameConfig -and $wasRunning -and $pathOk) {
        $changed = $false
    } else {
        $changed = $true
        $fileSwapped = $sameFile -and $unseen
        $configSwapped = $sameConfig -and $unseenConfig
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
                # An antivirus looks at what was just written, and nobody moves it meanwhile.
                Wait-Unlocked "$file.new"
                Move-IntoPlace $file $unseen
                $fileSwapped = $true
                if ((Get-FileDigest $file) -ne $wanted) {
                    Stop-Script 'blocked-by-antivirus' 'the file changed or vanished in its place.'
                }
            }
            if (-not $sameConfig) {
                [IO.File]::WriteAllBytes("$config.new", $configBytes)
                Wait-Unlocked "$config.new"
                Move-IntoPlace $config $unseenConfig
                $configSwapped = $true
            }
            if ($fresh) {
                [void](New-Service -Name $serviceName -BinaryPathName "`"$file`"" -DisplayName ([string]$Parameters.display_name) -StartupType Automatic)
            } elseif (-not $pathOk -or [string]$service.StartMode -ne 'Auto') {
                # One that is disabled does not start, and one that is started by hand does not come back by itself.
                $change = @{ PathName = "`"$file`""; StartMode = 'Automatic' }
                $answer = Invoke-CimMethod -InputObject $service -MethodName Change -Arguments $change
                if ($answer.ReturnValue -ne 0) {
                    throw "the service could not be changed: $($answer.ReturnValue)."
                }
            }
            Start-Agent
        } catch {
            $cause = $_.Exception
            $code = Get-FailureCode $cause
            $undone = 'nothing had been there before'
            if ($current) {
                $undone = 'the file before is in its place'
            }
            try {
                Stop-Agent
                Wait-Unlocked $file
                if ($fresh) {
                    $made = Get-Agent
                    if ($made) {
                        [void](Invoke-CimMethod -InputObject $made -MethodName Delete)
                    }
                }
                if ([IO.File]::Exists("$file.previous") -and ($fileSwapped -or -not [IO.File]::Exists($file))) {
                    $undone = 'rolled back to the file before'
                }
                Undo-Swap $file $fileSwapped
                Wait-Unlocked "$file.new"
                [IO.File]::Delete("$file.new")
                if ($config) {
                    Undo-Swap $config $configSwapped
                    Wait-Unlocked "$config.new"
                    [IO.File]::Delete("$config.new")
                }
                if ($wasRunning -or ($unseen -and $fileSwapped -and -not $fresh)) {
                    Start-Agent
                }
            } catch {
                $undone = "rolling back failed: $($_.Exception.Message)"
            }
            Stop-Script $code "$($cause.Message) ($undone)"
        }
    }
    # What is left of this run and of the one before. The agent runs: a leftover that an antivirus still holds open
    # is taken away by the next run.
    $leftovers = @("$file.previous", "$file.new")
    if ($config) {
        $leftovers += "$config.previous"
        $leftovers += "$config.new"
    }
    try {
        foreach ($leftover in $leftovers) {
            [IO.File]::Delete($leftover)
        }
        if ([IO.Directory]::Exists($stage)) {
            [IO.Directory]::Delete($stage, $true)
        }
    } catch {
        $null = $_
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
