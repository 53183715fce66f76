# Runs one script and returns exactly one envelope. Lines: 0 this text, 1 the script, 2 the request as JSON, each as
# base64 of UTF-8; then the payload, a chunk of base64 a line. Kept outlives the run, within the process.
# The request: run_id, script, writes, needs_administrator, meant (which machine), parameters.
# A script that writes leaves a record of its run: its envelope, by run id. Who comes with the same id again, also while
# the first is at work, gets that envelope, and nothing is run. A record that was begun and not ended is of a run that
# was cut off: nobody knows what it did, and that is said. Records hold no parameters, only what the envelope holds.
# Helpers for scripts:
#   Stop-Script CODE DETAIL   ends the script with a reason code.
#   Save-Payload PATH         writes the payload to a new file and returns its length in bytes.
#   Read-Payload STREAM       writes the payload to a stream.
#   New-ClosedFolder PATH     makes a folder for SYSTEM and administrators alone, or makes it one.
param($Lines, $Kept)
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$WarningPreference = 'SilentlyContinue'

# Only for this process: modules of Windows itself do not load under the default policy of workstations.
try {
    Set-ExecutionPolicy -ExecutionPolicy Bypass -Scope Process -Force
} catch {
    $null = $_
}

function Stop-Script {
    param([string]$Code, [string]$Detail)
    $failure = New-Object System.Exception($Detail)
    $failure.Data['msp-code'] = $Code
    throw $failure
}

function Read-Payload {
    param($Stream)
    for ($index = 3; $index -lt $Lines.Length; $index++) {
        $chunk = [Convert]::FromBase64String($Lines[$index])
        $Stream.Write($chunk, 0, $chunk.Length)
    }
}

function Save-Payload {
    param([string]$Path)
    $stream = New-Object System.IO.FileStream($Path, 'Create', 'Write', 'None')
    try {
        Read-Payload $stream
        $stream.Flush($true)
        $stream.Length
    } finally {
        $stream.Dispose()
    }
}

function New-ClosedFolder {
    param([string]$Path)
    # Users may create folders in ProgramData: one that was there before gets our rights, and a link is refused.
    $security = New-Object System.Security.AccessControl.DirectorySecurity
    # Only these two parts: to write the audit part needs a privilege that some policies take away.
    $security.SetSecurityDescriptorSddlForm('O:BAD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)', 'Owner, Access')
    if ([IO.Directory]::Exists($Path)) {
        $entry = New-Object System.IO.DirectoryInfo($Path)
        if (($entry.Attributes -band [IO.FileAttributes]::ReparsePoint) -ne 0) {
            Stop-Script 'script-failed' "$Path is a link; it is not written to."
        }
        # What its maker put into it keeps that person's rights, whatever rights the folder has now.
        $owner = $entry.GetAccessControl('Owner').GetOwner([Security.Principal.SecurityIdentifier]).Value
        if (@('S-1-5-18', 'S-1-5-32-544') -notcontains $owner) {
            Stop-Script 'script-failed' "$Path belongs to $owner; it is not written to. Look into it and remove it."
        }
        $entry.SetAccessControl($security)
    } else {
        [void][IO.Directory]::CreateDirectory($Path, $security)
    }
}

function ConvertFrom-Line {
    param([string]$Line)
    [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($Line))
}

function Get-HostIdentity {
    $identity = @{
        computer_name = $env:COMPUTERNAME
        domain = $null
        dns_domain = $null
        sid = $null
        os_version = [string][Environment]::OSVersion.Version
        powershell_version = [string]$PSVersionTable.PSVersion
        language_mode = [string]$ExecutionContext.SessionState.LanguageMode
        is_administrator = $false
    }
    $user = New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())
    $identity.is_administrator = $user.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
    $system = Get-CimInstance -ClassName Win32_ComputerSystem
    if ($system.PartOfDomain) {
        $identity.dns_domain = [string]$system.Domain
        try {
            $name = New-Object Security.Principal.NTAccount("$($system.Domain)\$($env:COMPUTERNAME)`$")
            $sid = $name.Translate([Security.Principal.SecurityIdentifier])
            $identity.sid = $sid.Value
            $identity.domain = $sid.Translate([Security.Principal.NTAccount]).Value.Split('\')[0]
        } catch {
            $identity.sid = $null
        }
    } else {
        $identity.domain = [string]$system.Workgroup
        $local = Get-CimInstance -ClassName Win32_UserAccount -Filter "LocalAccount = True AND SID LIKE '%-500'"
        if ($local) {
            $first = @($local)[0]
            $identity.sid = $first.SID.Substring(0, $first.SID.Length - 4)
        }
    }
    $identity
}

function Get-Difference {
    # What is against this being the machine that was meant; nothing when it is.
    param($Meant, $Identity)
    if ($Meant.sid -and $Identity.sid) {
        if ($Meant.sid -ne $Identity.sid) {
            return 'its computer account is another one.'
        }
        return
    }
    $names = @($Meant.names)
    if ($names.Length -gt 0 -and $names -notcontains $Identity.computer_name) {
        return 'its name is another one.'
    }
    if ($Meant.domain) {
        if ($Identity.dns_domain) {
            if ($Identity.dns_domain.TrimEnd('.') -ne $Meant.domain) {
                return "it belongs to the domain $($Identity.dns_domain)."
            }
        } elseif ($Meant.in_directory) {
            return "it belongs to no domain, and $($Meant.domain) was meant."
        }
    }
}

function Remove-OldRecord {
    # Records of a day ago, and the oldest of too many.
    param([string]$Folder)
    $files = [IO.Directory]::GetFiles($Folder)
    [long[]]$times = @(foreach ($file in $files) { [IO.File]::GetLastWriteTimeUtc($file).Ticks })
    [Array]::Sort($times, $files)
    $limit = [DateTime]::UtcNow.AddDays(-1).Ticks
    for ($index = 0; $index -lt $files.Length; $index++) {
        if ($times[$index] -lt $limit -or $index -lt $files.Length - 400) {
            try {
                [IO.File]::Delete($files[$index])
            } catch {
                $null = $_
            }
        }
    }
}

$envelope = @{ run_id = $null; ok = $false; value = $null; error = $null; host = $null }
$mutex = $null
$held = $false
$begun = $false
$stored = $null
try {
    $request = ConvertFrom-Json -InputObject (ConvertFrom-Line $Lines[2])
    $envelope.run_id = [string]$request.run_id
    if (-not $Kept.identity) {
        $Kept.identity = Get-HostIdentity
    }
    $envelope.host = $Kept.identity
    $difference = Get-Difference $request.meant $Kept.identity
    if ($difference) {
        Stop-Script 'wrong-host' $difference
    }
    if ($request.needs_administrator -and -not $Kept.identity.is_administrator) {
        Stop-Script 'needs-local-administrator' 'the account is no administrator of this host.'
    }
    $script = [ScriptBlock]::Create((ConvertFrom-Line $Lines[1]))
    if ($request.writes) {
        $name = "$($request.run_id)-$($request.script)"
        if ($name -notmatch '^[A-Za-z0-9-]{1,130}$') {
            Stop-Script 'script-failed' 'the run has no plain name.'
        }
        $mutex = New-Object System.Threading.Mutex($false, "Global\msp-run-$name")
        try {
            $held = $mutex.WaitOne(900000)
        } catch [System.Threading.AbandonedMutexException] {
            $held = $true
        }
        if (-not $held) {
            Stop-Script 'outcome-unknown' 'a run with this id is still at work.'
        }
        $base = [Environment]::ExpandEnvironmentVariables('%ProgramData%\msp')
        $folder = [IO.Path]::Combine($base, 'runs')
        New-ClosedFolder $base
        New-ClosedFolder $folder
        $record = [IO.Path]::Combine($folder, $name)
        if ([IO.File]::Exists("$record.done")) {
            $stored = [IO.File]::ReadAllText("$record.done")
        } elseif ([IO.File]::Exists("$record.begun")) {
            Stop-Script 'outcome-unknown' 'an earlier run with this id was cut off.'
        } else {
            Remove-OldRecord $folder
            [IO.File]::WriteAllText("$record.begun", '')
            $begun = $true
        }
    }
    if (-not $stored) {
        $values = @(& $script $request.parameters)
        if ($values.Length -ne 1 -or -not ($values[0] -is [System.Collections.IDictionary])) {
            Stop-Script 'script-failed' 'the script did not return exactly one hashtable.'
        }
        $envelope.value = $values[0]
        $envelope.ok = $true
    }
} catch {
    $code = [string]$_.Exception.Data['msp-code']
    if ($code -eq '') {
        $code = 'script-failed'
    }
    $detail = [string]$_.Exception.Message
    if ($_.InvocationInfo) {
        $detail = "$detail (line $($_.InvocationInfo.ScriptLineNumber))"
    }
    $envelope.error = @{ code = $code; detail = $detail }
}
if ($stored) {
    $data = $stored
} else {
    $json = ConvertTo-Json -InputObject $envelope -Depth 16 -Compress
    $data = [Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($json))
}
try {
    if ($begun) {
        # Whole or not at all. Where the disk is full the record stays begun, and the answer goes out all the same.
        [IO.File]::WriteAllText("$record.new", $data)
        [IO.File]::Move("$record.new", "$record.done")
    }
} catch {
    $null = $_
}
if ($held) {
    $mutex.ReleaseMutex()
}
if ($mutex) {
    $mutex.Dispose()
}
'MSP1-ENVELOPE'
$data
