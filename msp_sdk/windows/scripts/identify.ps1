# script: identify
# version: 1
# writes: no
# Says nothing of its own: the envelope around every answer tells which machine this is.
param($Parameters)
@{ identified = $true }
