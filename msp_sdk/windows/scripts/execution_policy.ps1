# script: execution-policy
# version: 1
# writes: no
# administrator: no
# Which scripts in files the host lets PowerShell run, by scope; the first two are Group Policy's. Ours are no files.
# Input:  nothing.
# Output: policies (scope and policy of each; Undefined where a scope says nothing).
param($Parameters)
$ErrorActionPreference = 'Stop'

$policies = @()
foreach ($scope in @('MachinePolicy', 'UserPolicy', 'CurrentUser', 'LocalMachine')) {
    $policies += @{
        scope = $scope
        policy = [string](Get-ExecutionPolicy -Scope $scope)
    }
}
@{ policies = @($policies) }
