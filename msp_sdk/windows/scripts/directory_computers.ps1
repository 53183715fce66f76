# script: directory-computers
# version: 1
# writes: no
# Reads entries of the directory of which this host is a controller. Values go out as LDAP has them, as bytes.
# A long attribute comes in ranges: what is left of it is asked for until all of it is there.
# Input:  base_dn, filter, attributes (names), page_size.
# Output: count, entries: base64 of gzip of ASCII lines, one an entry: its distinguished name, then name=value,value
#         for each attribute, with tabs between them; distinguished name and values are base64 of bytes.
param($Parameters)
$ErrorActionPreference = 'Stop'

$invariant = [Globalization.CultureInfo]::InvariantCulture

function ConvertTo-Value {
    param($Value)
    if ($Value -is [byte[]]) {
        return [Convert]::ToBase64String($Value)
    }
    if ($Value -is [DateTime]) {
        # DirectorySearcher gives generalised time in UTC.
        $text = $Value.ToString('yyyyMMddHHmmss', $invariant) + '.0Z'
    } elseif ($Value -is [bool]) {
        $text = if ($Value) { 'TRUE' } else { 'FALSE' }
    } else {
        $text = [Convert]::ToString($Value, $invariant)
    }
    [Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($text))
}

function Get-Rest {
    # The values of an attribute from a place on. Without an end in the answer there are more.
    param($Entry, [string]$Name, [int]$Start)
    $one = New-Object System.DirectoryServices.DirectorySearcher($Entry.GetDirectoryEntry())
    try {
        $one.SearchScope = 'Base'
        $one.Filter = '(objectClass=*)'
        while ($true) {
            $one.PropertiesToLoad.Clear()
            $null = $one.PropertiesToLoad.Add("$Name;range=$Start-*")
            $part = $one.FindOne()
            $range = @(@($part.Properties.PropertyNames) -like "$Name;range=*")
            if ($range.Count -ne 1 -or $part.Properties[$range[0]].Count -eq 0) {
                throw "the values of $Name from $Start on did not come."
            }
            foreach ($value in $part.Properties[$range[0]]) {
                ConvertTo-Value -Value $value
                $Start++
            }
            if ($range[0].EndsWith('-*')) {
                return
            }
        }
    } finally {
        $one.SearchRoot.Dispose()
        $one.Dispose()
    }
}

# A slash would end the name in a path of this kind.
$path = 'LDAP://localhost/' + ([string]$Parameters.base_dn).Replace('/', '\/')
$root = New-Object System.DirectoryServices.DirectoryEntry($path)
$searcher = New-Object System.DirectoryServices.DirectorySearcher($root)
$searcher.Filter = [string]$Parameters.filter
$searcher.PageSize = [int]$Parameters.page_size
$searcher.SearchScope = 'Subtree'
$searcher.ReferralChasing = 'None'
$searcher.CacheResults = $false
foreach ($name in @($Parameters.attributes)) {
    $null = $searcher.PropertiesToLoad.Add([string]$name)
}
$null = $searcher.PropertiesToLoad.Add('distinguishedName')

$count = 0
$memory = New-Object System.IO.MemoryStream
$packer = New-Object System.IO.Compression.GZipStream($memory, [IO.Compression.CompressionMode]::Compress, $true)
$writer = New-Object System.IO.StreamWriter($packer, [Text.Encoding]::ASCII)
$found = $null
try {
    $found = $searcher.FindAll()
    foreach ($entry in $found) {
        $names = @($entry.Properties['distinguishedname'])
        $parts = @(ConvertTo-Value -Value ([string]$names[0]))
        foreach ($name in $entry.Properties.PropertyNames) {
            if ($name -ne 'adspath' -and $name -ne 'distinguishedname') {
                $values = @(foreach ($value in $entry.Properties[$name]) { ConvertTo-Value -Value $value })
                $bare, $range = ([string]$name).Split(';')
                if ($null -ne $range -and -not $range.EndsWith('-*')) {
                    $values += @(Get-Rest -Entry $entry -Name $bare -Start $values.Count)
                }
                # Beside its ranges an attribute comes once more, without values.
                if ($values.Count -gt 0) {
                    $parts += $bare + '=' + ($values -join ',')
                }
            }
        }
        $writer.Write(($parts -join "`t") + "`n")
        $count++
    }
} finally {
    if ($null -ne $found) {
        $found.Dispose()
    }
    $writer.Dispose()
    $packer.Dispose()
    $searcher.Dispose()
    $root.Dispose()
}
@{ count = $count; entries = [Convert]::ToBase64String($memory.ToArray()) }
