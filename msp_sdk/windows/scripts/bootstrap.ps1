# Sent on the command line, always the same. It reads all of stdin and hands it to the prelude, its first line.
# Where the host restricts the language, or is too old, it says so with what even a restricted language allows.
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
$lines = [Console]::In.ReadToEnd().Split("`n")
$text = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($lines[0]))
& ([ScriptBlock]::Create($text)) $lines
