# Sent on the command line, always the same: a loop that serves scripts. It reads lines from stdin to one that is a dot,
# hands them to the prelude, which is the first of them, in a runspace of its own, writes what comes out, and reads on.
# At the end of stdin it ends: with 0, or with 4 when a script was cut off, which is then not run.
# Where the host restricts the language, or is too old, it says so with what even a restricted language allows.
# Nothing here may name PowerShell's own variable for piped objects: where it stands in a command, powershell.exe reads
# stdin itself.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$mode = [string]$ExecutionContext.SessionState.LanguageMode
if ($mode -ne 'FullLanguage') {
    "MSP1-LANGUAGE $mode"
    exit 3
}
$version = [string]$PSVersionTable.PSVersion
if ($PSVersionTable.PSVersion.Major -lt 5) {
    "MSP1-VERSION $version"
    exit 3
}
$kept = @{}
$lines = New-Object System.Collections.ArrayList
while ($null -ne ($line = [Console]::In.ReadLine())) {
    if ($line -ne '.') {
        [void]$lines.Add($line)
        continue
    }
    $shell = [PowerShell]::Create()
    try {
        $text = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($lines[0]))
        [void]$shell.AddScript($text).AddArgument($lines.ToArray()).AddArgument($kept)
        foreach ($out in $shell.Invoke()) {
            [Console]::Out.WriteLine([string]$out)
        }
        [Console]::Out.Flush()
    } finally {
        $shell.Dispose()
    }
    $lines.Clear()
}
if ($lines.Count -gt 0) {
    exit 4
}
exit 0
