# script: agent-remove
# version: 2
# writes: yes
# Takes the agent away: service, file, configuration, and the folder when nothing else is in it.
# Input:  service_name, install_folder, file_name, config_name (or null).
# Output: removed (false when it was not there).
# Ends with install-failed or script-failed.
param($Parameters)
$ErrorActionPreference = 'Stop'

$serviceName = [string]$Parameters.service_name
$folder = [Environment]::ExpandEnvironmentVariables([string]$Parameters.install_folder)
$names = @([string]$Parameters.file_name)
if ($Parameters.config_name) {
    $names += [string]$Parameters.config_name
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

$removed = $false
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
    $filter = "Name = '$($serviceName.Replace("'", "''"))'"
    $service = Get-CimInstance -ClassName Win32_Service -Filter $filter
    if ($service) {
        # Without NoWait the cmdlet waits for ever for a service that hangs while it stops.
        Stop-Service -Name $serviceName -Force -NoWait -ErrorAction Stop
        (Get-Service -Name $serviceName).WaitForStatus('Stopped', [TimeSpan]::FromSeconds(30))
        $answer = Invoke-CimMethod -InputObject $service -MethodName Delete
        if ($answer.ReturnValue -ne 0) {
            Stop-Script 'install-failed' "the service could not be deleted: $($answer.ReturnValue)."
        }
        $removed = $true
    }
    foreach ($name in $names) {
        foreach ($suffix in @('', '.previous', '.new')) {
            $path = [IO.Path]::Combine($folder, "$name$suffix")
            if ([IO.File]::Exists($path)) {
                Wait-Unlocked $path
                [IO.File]::Delete($path)
                $removed = $true
            }
        }
    }
    if ([IO.Directory]::Exists($folder) -and @([IO.Directory]::GetFileSystemEntries($folder)).Length -eq 0) {
        [IO.Directory]::Delete($folder)
    }
} finally {
    $mutex.ReleaseMutex()
    $mutex.Dispose()
}
@{ removed = $removed }
