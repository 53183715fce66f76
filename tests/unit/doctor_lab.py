"""A host, its DNS and whatever is wrong with it, for the tests of the doctor. Every trouble is a real peer's."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from attrs import field, mutable
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from msp_sdk.models.credential import Credential
from msp_sdk.models.domain import Domain
from msp_sdk.models.finding import Examination
from msp_sdk.models.target import Target
from msp_sdk.network.excluded import ExcludedNetworks
from msp_sdk.network.kdcs import Kdcs
from msp_sdk.network.resolver import Resolver, ResolverOptions
from msp_sdk.reachability.doctor import DoctorOptions, HostDoctor
from msp_sdk.testing.certificates import IssuedCertificate
from msp_sdk.testing.dns import DnsServer, DnsZone
from msp_sdk.testing.host_lab import HostLab
from msp_sdk.testing.loopback import take_address
from msp_sdk.testing.wsman import HostsThread, WsmanHost
from msp_sdk.windows.doors import HostPolicy

FQDN = "srv1.corp.example"
QUICK_DNS = ResolverOptions(timeout_s=0.3, lifetime_s=0.6)


class LooseCertificate(IssuedCertificate):
    """A certificate for a server that is content with anything, as old Windows is."""

    def __init__(self, certificate: x509.Certificate, key: Any, newest: ssl.TLSVersion | None = None) -> None:
        super().__init__(lambda: SimpleNamespace(certificate=certificate, key=key))  # type: ignore[arg-type,return-value]
        self._newest = newest

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            # Old versions are what it is here for.
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            if self._newest is not None:
                context.maximum_version = self._newest
        with TemporaryDirectory(prefix="msp-tls-") as folder:
            cert, key = self.write(Path(folder), "server")
            context.load_cert_chain(cert, key)
        return context

    def late_context(self) -> ssl.SSLContext:
        # The version is settled before the hello is answered.
        return self.server_context()


def make_certificate(
    name: str = FQDN,
    *,
    begins_in_days: float = -10,
    ends_in_days: float = 100,
    digest: hashes.HashAlgorithm | None = None,
    rsa_bits: int | None = None,
    newest: ssl.TLSVersion | None = None,
) -> LooseCertificate:
    """A certificate that signs itself."""
    key: Any = (
        ec.generate_private_key(ec.SECP256R1())
        if rsa_bits is None
        else rsa.generate_private_key(public_exponent=65537, key_size=rsa_bits)
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins_in_days))
        .not_valid_after(now + timedelta(days=ends_in_days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, digest or hashes.SHA256())
    )
    return LooseCertificate(certificate, key, newest)


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def http_answer(status: int, *rows: str, server: str = "Microsoft-HTTPAPI/2.0") -> bytes:
    """The head of an answer without a body."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Server: {server}", *rows, "Content-Length: 0", "", ""]
    return "\r\n".join(lines).encode()


def says(answer: bytes, *, first: bool = False) -> Talk:
    """A peer that says always the same; ``first``: before it has heard anything."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if first:
            writer.write(answer)
            await writer.drain()
        await reader.read(4096)
        if not first:
            writer.write(answer)
            await writer.drain()

    return talk


async def keeps_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A peer that takes connections and never says anything."""
    while await reader.read(4096):
        pass


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A peer that hangs up as soon as something is said to it."""
    await reader.read(1)


@mutable
class DoctorLab:
    """What a test arranges, and then has examined.

    Attributes:
        zone: What the first DNS server knows; it knows the host at its address.
        host: The Windows host at that address; None: something else is there, or nothing.
        peers: What else listens there, by port.
        silent_ports: Where SYNs are dropped.
        servers: All DNS servers of the work; made when it begins.
        more_zones: One more DNS server for each.
        compare_zone: What a DNS server knows that is asked for comparison alone.
    """

    lab: HostLab
    host: WsmanHost | None
    address: str
    zone: DnsZone
    peers: dict[int, tuple[Talk, IssuedCertificate | None]] = field(factory=dict)
    silent_ports: tuple[int, ...] = ()
    more_zones: list[DnsZone] = field(factory=list)
    compare_zone: DnsZone | None = None
    dns: Callable[[DnsServer], None] = lambda _: None
    has_dns: bool = True
    asked: str | Target = FQDN
    credential: Credential | None = None
    policy: dict[str, Any] = field(factory=dict)
    trusts: tuple[str, ...] = ()
    domain: Domain | None = None
    directory: Any = None
    excluded: tuple[str, ...] = ()
    kdcs: Kdcs | None = None

    @classmethod
    def make(cls, folder: Path) -> DoctorLab:
        """All is well."""
        lab = HostLab(folder)
        host = lab.host("SRV1")
        zone = DnsZone("corp.example")
        zone.add_address("srv1", host.address)
        return cls(lab, host, host.address, zone, trusts=(lab.ca.pem.decode(),))

    def replace_host(self, **changes: Any) -> WsmanHost:
        """Another host in its place, with other doors or another certificate."""
        certificate = changes.pop("certificate", None)
        machine = self.lab.host("SRV1", **changes)
        if certificate is not None:
            machine = WsmanHost(
                machine.machine,
                machine.accounts,
                address=machine.address,
                http_port=machine.http_port,
                certificate=certificate,
            )
        self.move_to(machine.address)
        self.host = machine
        return machine

    def move_to(self, address: str) -> None:
        """The name leads to another address."""
        self.zone.remove("srv1")
        self.zone.add_address("srv1", address)
        self.address = address

    def put_peer(self, port: int, talk: Talk, certificate: IssuedCertificate | None = None) -> None:
        """Something else than Windows listens at the address."""
        if self.host is not None:
            self.host = None
            self.move_to(take_address())
        self.peers[port] = (talk, certificate)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[HostDoctor]:
        """Everything arranged, and a doctor."""
        async with AsyncExitStack() as stack:
            stack.enter_context(HostsThread([self.host] if self.host is not None else []))
            for port, (talk, certificate) in self.peers.items():
                await stack.enter_async_context(listening(self.address, port, talk, certificate))
            for port in self.silent_ports:
                stack.enter_context(_full(self.address, port))
            servers = []
            for zone in (self.zone, *self.more_zones):
                server = await stack.enter_async_context(DnsServer(zone))
                servers.append(server.server)
                if zone is self.zone:
                    self.dns(server)
            compare = ()
            if self.compare_zone is not None:
                compare = ((await stack.enter_async_context(DnsServer(self.compare_zone))).server,)
            policy = HostPolicy(trusted_cas=self.trusts, **self.policy)
            shells = self.lab.shells(policy=policy, kdcs=self.kdcs)
            stack.push_async_callback(shells.aclose)
            yield HostDoctor(
                domain=self.domain,
                resolver=Resolver(servers if self.has_dns else (), search=["corp.example"], options=QUICK_DNS),
                shells=shells,
                policy=policy,
                directory=self.directory,
                options=DoctorOptions(connect_s=0.5, compare=compare, excluded=ExcludedNetworks.parse(self.excluded)),
            )

    def examine(self) -> Examination:
        """One examination."""
        return self.examine_times(1)[0]

    def examine_times(self, count: int) -> Sequence[Examination]:
        """Several, one after the other, with the same ledger."""

        async def go() -> Sequence[Examination]:
            async with self.running() as doctor:
                return [await doctor.examine(self.asked, self.credential) for _ in range(count)]

        return asyncio.run(go())

    @property
    def logon_count(self) -> int:
        """How many logons came in at the host."""
        return 0 if self.host is None else self.host.logon_count


@asynccontextmanager
async def listening(address: str, port: int, talk: Talk, certificate: IssuedCertificate | None) -> AsyncIterator[None]:
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(OSError, asyncio.CancelledError):
            await talk(reader, writer)
        writer.transport.abort()

    context = None if certificate is None else certificate.server_context()
    server = await asyncio.start_server(serve, address, port, ssl=context)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _full(address: str, port: int) -> Iterator[None]:
    """A port whose accept queue is full: Linux drops further SYNs, as a firewall does."""
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.socket()))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(closing(socket.socket()))
            filler.setblocking(False)
            filler.connect_ex((address, port))
        yield
