r"""Names and SIDs of somebody's network, replaced by made-up ones: the same one by the same one. No I/O.

What the host said of itself is known (its name, its domain, the account), and so is the form of a SID; these are
replaced wherever they stand. A list of directory entries is unpacked, every name in it is replaced, and it is packed
again. Made-up ones are numbered as they come up, so that nobody can try real names against them.

Example:
    >>> names = MadeUpNames(HostIdentity("RECEPTION", "CLINIC", "clinic.local", "S-1-5-21-7-8-9-1104"))
    >>> names.replace({"path": r"\\reception.clinic.local\c$", "owner": "S-1-5-21-7-8-9-500"})
    {'path': '\\\\HOST1.corp.example\\c$', 'owner': 'S-1-5-21-1-1-1-500'}
    >>> names.localise({"base_dn": "DC=corp,DC=example"})
    {'base_dn': 'DC=clinic,DC=local'}
"""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import struct
import zlib
from collections.abc import Mapping

from msp_sdk.windows.identity import HostIdentity

#: The domain of every example in the project's contracts.
EXAMPLE_DOMAIN = "corp.example"
EXAMPLE_NETBIOS = "CORP"

_SID = re.compile(r"S-1-5-21-(\d+-\d+-\d+)((?:-\d+)?)")
# Below this a relative identifier is one of Windows' own, the same everywhere.
_FIRST_OWN_RID = 1000
_GZIP_HEAD = "H4sI"
_WORD = re.compile(r"[^\s/\\.:;,@()=]+")
_COMMON = frozenset({"corp", "example", "computers", "users", "domain controllers", "host", "http", "termsrv", "wsman"})
_PLAIN_ATTRIBUTES = frozenset(
    {
        *("objectclass", "operatingsystem", "operatingsystemversion", "useraccountcontrol", "samaccounttype"),
        *("pwdlastset", "lastlogontimestamp", "whencreated", "whenchanged", "primarygroupid", "instancetype"),
    }
)


class MadeUpNames:
    """Replaces what belongs to one host's network.

    Args:
        identity: What the host says of itself.
        username: The account's name without its domain; None when there is nothing to hide.
    """

    def __init__(self, identity: HostIdentity, username: str | None = None) -> None:
        self._domain = (identity.dns_domain or "").rstrip(".")
        self._authorities: dict[str, str] = {}
        self._accounts: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._blobs: dict[bytes, bytes] = {}
        known = {
            _dn(self._domain): _dn(EXAMPLE_DOMAIN),
            self._domain: EXAMPLE_DOMAIN,
            identity.computer_name: "HOST1",
            username or "": "USER1",
        }
        if self._domain:
            known[identity.domain or ""] = EXAMPLE_NETBIOS
        elif (identity.domain or "").upper() != "WORKGROUP":
            known[identity.domain or ""] = "WORKGROUP"
        self._known = {real.casefold(): made_up for real, made_up in reversed(known.items()) if real}
        longest_first = sorted(self._known, key=len, reverse=True)
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)

    def localise(self, value: object) -> object:
        """A contract's example, with the example's domain replaced by the host's own; a workgroup has none."""
        if isinstance(value, Mapping):
            return {name: self.localise(entry) for name, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.localise(entry) for entry in value]
        if not isinstance(value, str) or not self._domain:
            return value
        return value.replace(_dn(EXAMPLE_DOMAIN), _dn(self._domain)).replace(EXAMPLE_DOMAIN, self._domain)

    def replace(self, value: object) -> object:
        """A JSON value without the network's names."""
        if isinstance(value, Mapping):
            return {str(name): self.replace(entry) for name, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.replace(entry) for entry in value]
        if not isinstance(value, str):
            return value
        return self._packed(value) if value.startswith(_GZIP_HEAD) else self._text(value)

    def _text(self, text: str) -> str:
        text = _SID.sub(lambda found: self._sid(found[1], found[2]), text)
        return self._pattern.sub(lambda found: self._known[found[0].casefold()], text)

    def _sid(self, authority: str, account: str) -> str:
        number = len(self._authorities) + 1
        made_up = self._authorities.setdefault(authority, f"{number}-{number}-{number}")
        if account and int(account[1:]) >= _FIRST_OWN_RID:
            account = f"-{self._accounts.setdefault(authority + account, _FIRST_OWN_RID + len(self._accounts))}"
        return f"S-1-5-21-{made_up}{account}"

    def _packed(self, text: str) -> str:
        """A list of directory entries; see the script ``directory-computers``."""
        try:
            lines = gzip.decompress(base64.b64decode(text, validate=True)).decode("ascii").splitlines()
            packed = [self._entry(line) for line in lines]
        except (binascii.Error, OSError, EOFError, zlib.error, ValueError):
            return self._text(text)
        data = "".join(f"{line}\n" for line in packed).encode()
        return base64.b64encode(gzip.compress(data, mtime=0)).decode()

    def _entry(self, line: str) -> str:
        name, *attributes = line.split("\t")
        parts = [self._encoded(name, plain=False)]
        for attribute in attributes:
            key, _, values = attribute.partition("=")
            plain = key.casefold() in _PLAIN_ATTRIBUTES
            parts.append(f"{key}={','.join(self._encoded(value, plain=plain) for value in values.split(','))}")
        return "\t".join(parts)

    def _encoded(self, value: str, *, plain: bool) -> str:
        data = base64.b64decode(value, validate=True)
        if not plain:
            data = self._bytes(data)
        return base64.b64encode(data).decode()

    def _bytes(self, data: bytes) -> bytes:
        """A value of an entry: every word of a text, a SID, or any other bytes."""
        if len(data) == 8 + 4 * (data[1] if len(data) > 1 else 0) and data[:1] == b"\x01" and data[7:8] == b"\x05":
            return self._binary_sid(data)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return self._blob(data)
        if not text.isprintable():
            return self._blob(data)
        if "=" in text:
            # A distinguished name: what stands before an equals sign is a kind, no name.
            parts = re.split(r"(?<!\\),", self._text(text))
            pairs = (part.partition("=") for part in parts)
            return ",".join(f"{kind}{sign}{self._word_by_word(name)}" for kind, sign, name in pairs).encode()
        return self._word_by_word(self._text(text)).encode()

    def _word_by_word(self, text: str) -> str:
        return _WORD.sub(lambda found: self._name(found[0]), text) if text.casefold() not in _COMMON else text

    def _name(self, word: str) -> str:
        bare = word.removesuffix("$")
        made_up = set(self._known.values())
        if bare.casefold() in _COMMON or bare.isdigit() or bare in made_up or not bare:
            return word
        name = self._names.setdefault(bare.casefold(), f"NAME{len(self._names) + 1}")
        return name + word[len(bare) :]

    def _binary_sid(self, data: bytes) -> bytes:
        numbers = struct.unpack(f"<{data[1]}I", data[8:])
        text = "-".join(map(str, (*(1, 5), *numbers)))
        made_up = self._text(f"S-{text}").split("-")[3:]
        return data[:8] + struct.pack(f"<{data[1]}I", *map(int, made_up))

    def _blob(self, data: bytes) -> bytes:
        number = len(self._blobs) + 1
        return self._blobs.setdefault(data, (number % 256 ** len(data)).to_bytes(len(data), "big"))


def _dn(domain: str) -> str:
    return ",".join(f"DC={label}" for label in domain.split(".")) if domain else ""
