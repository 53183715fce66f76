# Runs one script and writes exactly one envelope. Lines of stdin: 0 this text, 1 the script, 2 the parameters as JSON,
# each as base64 of UTF-8; then the payload, a chunk of base64 a line; then a line with a dot. Without the dot stdin was
# cut off, and nothing is run.
# Helpers for scripts:
#   Stop-Script CODE DETAIL   ends the script with a reason code.
#   Save-Payload PATH         writes the payload to a new file and returns its length in bytes.
param($Lines)
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$WarningPreference = 'SilentlyContinue'
if ($Lines[$Lines.Length - 1] -ne '.') {
    exit 4
}

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

function Save-Payload {
    param([string]$Path)
    $stream = New-Object System.IO.FileStream($Path, 'Create', 'Write', 'None')
    try {
        for ($index = 3; $Lines[$index] -ne '.'; $index++) {
            $chunk = [Convert]::FromBase64String($Lines[$index])
            $stream.Write($chunk, 0, $chunk.Length)
        }
        $stream.Flush($true)
        $stream.Length
    } finally {
        $stream.Dispose()
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

$envelope = @{ run_id = $null; ok = $false; value = $null; error = $null; host = $null }
try {
    $Parameters = ConvertFrom-Json -InputObject (ConvertFrom-Line $Lines[2])
    $envelope.run_id = [string]$Parameters.run_id
    $envelope.host = Get-HostIdentity
    $script = [ScriptBlock]::Create((ConvertFrom-Line $Lines[1]))
    $values = @(& $script $Parameters)
    if ($values.Length -ne 1 -or -not ($values[0] -is [System.Collections.IDictionary])) {
        Stop-Script 'script-failed' 'the script did not return exactly one hashtable.'
    }
    $envelope.value = $values[0]
    $envelope.ok = $true
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
$json = ConvertTo-Json -InputObject $envelope -Depth 16 -Compress
$data = [Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($json))
[Console]::Out.WriteLine('MSP1-ENVELOPE')
[Console]::Out.WriteLine($data)
[Console]::Out.Flush()
