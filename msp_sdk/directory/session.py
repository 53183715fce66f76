"""A session with a directory: the one thing that the rest of the project opens, reads with and closes.

Its invariants, kept by the files that it joins:

* A password is sent only over TLS to a certificate that was verified or listed; a proof of it (Kerberos, NTLM) only
  where the session is sealed after it; both only through the logon ledger (``logon.py``).
* A lost connection is never opened anew (``connection.py``).
* Connecting and receiving have deadlines; what comes is read strictly (``ber.py``). Every foreign exception becomes
  one of ``msp_sdk.errors``.
* A search that stops half-way is :class:`~msp_sdk.errors.PartialResultError`, never a short list (``search.py``).

All of it blocks: call it in a worker thread, one at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import attrs

from msp_sdk.directory.ber import Control
from msp_sdk.directory.connection import DirectoryOptions, Link, connect, encode_search
from msp_sdk.directory.doors import Door, SkippedDoor, doors, logon_doors
from msp_sdk.directory.entry import Entry, parse_guid
from msp_sdk.directory.logon import first_open, log_on
from msp_sdk.directory.root_dse import ROOT_DSE_ATTRIBUTES, RootDse, parse_root_dse
from msp_sdk.directory.search import Continuation, Round, Searcher, paging
from msp_sdk.errors import DirectoryError
from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import DomainController, SeenCertificate
from msp_sdk.network.logons import LogonLedger
from msp_sdk.network.pins import digest_of_der, seeing_context

__all__ = [
    "DirectoryOptions",
    "DirectorySession",
    "SkippedDoor",
    "open_anonymous",
    "open_session",
    "read_root_dse",
    "see_certificate",
]


class DirectorySession:
    """A bound (or anonymous) session. Make one with :func:`open_session` or :func:`open_anonymous`.

    Attributes:
        skipped_doors: The ways in that were passed over before this one took us.
        bound: Somebody is logged on.
    """

    def __init__(
        self,
        link: Link,
        options: DirectoryOptions,
        *,
        bound: bool = False,
        skipped_doors: tuple[SkippedDoor, ...] = (),
    ) -> None:
        self._link = link
        self._options = options
        self._searcher = Searcher(link)
        self._invocation_id: str | None = None
        self.bound = bound
        self.skipped_doors = skipped_doors

    @property
    def source(self) -> str:
        """Controller and door, such as ``dc1.corp.example ldaps``."""
        return self._link.name

    @property
    def closed(self) -> bool:
        """True once it was closed, broke, or was ended by a controller that tired of waiting."""
        self._link.look()
        return self._link.closed

    @property
    def certificate_sha256(self) -> str | None:
        """Digest of the certificate that this session runs under; None without TLS."""
        certificate = self._link.certificate
        return None if certificate is None else digest_of_der(certificate)

    def close(self) -> None:
        """End the session; it never raises."""
        self._link.close()

    def pages(
        self,
        base: str,
        filter_text: str,
        attributes: Sequence[str],
        *,
        types_only: bool = False,
        controls: Sequence[Control] = (),
    ) -> Iterator[tuple[Entry, ...]]:
        """Search below ``base``, page after page; the next one is asked for before this one is decoded.

        Other reads may come between two pages, and the iterator may be left at any page: the session stays usable.

        Args:
            base: A distinguished name.
            filter_text: An LDAP filter; values in it must be escaped.
            attributes: Which attributes to read.
            types_only: Names of attributes without their values.
            controls: Sent along.

        Raises:
            PartialResultError: While iterating: it was cut short or broke after a part. ``received`` holds what came
                of the page that was not given out.
            DirectoryError: The directory refused; or the connection broke or carried nonsense: retryable.
            ConfigError: The filter is none.
        """
        request = encode_search(base, filter_text, attributes, types_only=types_only)
        for part in self._searcher.rounds(request, paging(self._options.page_size), controls=controls):
            yield part.entries

    def rounds(
        self,
        base: str,
        filter_text: str,
        attributes: Sequence[str],
        continuation: Continuation,
        *,
        cookie: bytes = b"",
    ) -> Iterator[Round]:
        """As :meth:`pages`, going on in another way than by pages; attributes are left as they came."""
        request = encode_search(base, filter_text, attributes)
        return self._searcher.rounds(request, continuation, cookie=cookie, whole=False)

    def read(self, dn: str, attributes: Sequence[str], controls: Sequence[Control] = ()) -> Entry | None:
        """Read one entry; None when there is none.

        Raises:
            DirectoryError: The directory refused; or the connection broke or carried nonsense: retryable.
        """
        return self._searcher.read(dn, attributes, controls)

    def root_dse(self) -> RootDse:
        """Read what the controller says of itself; when logged on, also the identity of its database.

        Raises:
            DirectoryError: It says nothing, or not as it should.
        """
        entry = self.read("", ROOT_DSE_ATTRIBUTES)
        if entry is None:
            raise DirectoryError(f"{self.source} has no rootDSE.", code="directory-failed", retryable=True)
        root = parse_root_dse(entry)
        if not self.bound or root.ds_service_name is None:
            return root
        settings: Entry | None = None
        # An account may be kept from reading it; a connection that broke shows at the next read.
        with contextlib.suppress(DirectoryError):
            settings = self.read(root.ds_service_name, ("invocationId",))
        values = () if settings is None else settings.values("invocationId")
        root = attrs.evolve(root, invocation_id=parse_guid(next(iter(values), None)))
        self._invocation_id = root.invocation_id
        return root

    @property
    def invocation_id(self) -> str | None:
        """The identity of the controller's database, asked for once; None where the account may not know it.

        Raises:
            DirectoryError: As :meth:`root_dse`.
        """
        return self._invocation_id or self.root_dse().invocation_id


def open_anonymous(controller: DomainController, options: DirectoryOptions) -> DirectorySession:
    """Connect without a name and without TLS where that is possible: for the rootDSE alone.

    Raises:
        DirectoryError: No address of the controller answered. Retryable.
    """

    def open_door(door: Door) -> Link:
        return connect(controller, door, seeing_context() if door.kind == "ldaps" else None, options)

    ways = doors(controller, first="plain", ldaps_port=options.ldaps_port)
    return DirectorySession(first_open(controller, ways, open_door), options)


def read_root_dse(controller: DomainController, options: DirectoryOptions) -> RootDse:
    """Connect, read the rootDSE, disconnect.

    Raises:
        DirectoryError: No address answered, or not as a directory should.
    """
    session = open_anonymous(controller, options)
    try:
        return session.root_dse()
    finally:
        session.close()


def see_certificate(controller: DomainController, options: DirectoryOptions) -> SeenCertificate:
    """Look at a controller's certificate without trusting it; nothing is sent that is secret.

    Raises:
        DirectoryError: The controller cannot be reached or has no certificate.
    """
    link = first_open(
        controller,
        doors(controller, first="starttls", ldaps_port=options.ldaps_port),
        lambda door: connect(controller, door, seeing_context(), options),
    )
    try:
        return SeenCertificate(controller.fqdn, digest_of_der(link.certificate or b""))
    finally:
        link.close()


def open_session(
    controller: DomainController, credential: Credential, *, ledger: LogonLedger, options: DirectoryOptions
) -> DirectorySession:
    """Connect sealed or by TLS, check the certificate, and bind: a refused logon is the only one.

    Args:
        controller: Where; its doors are tried in order: Kerberos, LDAPS, StartTLS, and NTLM if the options allow it.
        credential: Whose secret is opened after the ledger has allowed the attempt.
        ledger: Counts the logon.
        options: Patience, CAs.

    Raises:
        BindRejectedError: The certificate is neither verified nor listed (nothing was sent), or the controller
            demands another kind of bind. The context holds the certificate's digest.
        LogonRejectedError: The password or the account was refused; the code says why. Never try again.
        LogonNotAllowedError: The ledger said no; nothing was sent.
        DirectoryError: The controller cannot be reached (retryable) or fails.
        ConfigError: The credential's list of certificates or its secret is unusable.
    """
    ways = logon_doors(controller, options.doors, ldaps_port=options.ldaps_port)
    link, skipped = log_on(controller, credential, ways, ledger=ledger, options=options)
    return DirectorySession(link, options, bound=True, skipped_doors=skipped)
