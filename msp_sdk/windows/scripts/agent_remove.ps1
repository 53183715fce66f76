# script: agent-remove
# version: 1
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
        Stop-Service -Name $serviceName -Force -ErrorAction Stop
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
