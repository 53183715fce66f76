"""What the WinRM stand-in takes and refuses, envelope by envelope: strict messages, shells, limits."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest

from msp_sdk.testing.powershell import Command, User
from msp_sdk.testing.windows_host import Machine
from msp_sdk.testing.wsman_messages import NS, SHELL, SHELL_URI
from msp_sdk.testing.wsman_refusals import REFUSALS
from msp_sdk.testing.wsman_shells import Quotas, ShellService
from msp_sdk.windows import faults

ADMIN, OTHER, PLAIN = User(r"CORP\svc"), User(r"SRV1\admin"), User(r"CORP\plain", is_administrator=False)
CREATE = "<rsp:Shell><rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>stdout stderr</rsp:OutputStreams>"
COMMAND = r"<rsp:CommandLine><rsp:Command>C:\x.exe</rsp:Command><rsp:Arguments>1</rsp:Arguments></rsp:CommandLine>"


def envelope(
    operation: str, body: str = "", *, shell_id: str = "", header: str = "", options: str = "", **fields
) -> str:
    """A request; ``fields`` take the place of headers that each request has."""
    family = "http://schemas.xmlsoap.org/ws/2004/09/transfer/" if operation in ("Create", "Delete") else SHELL
    values = {
        "a:Action": family + operation,
        "a:MessageID": "uuid:1",
        "a:To": "http://h/wsman",
        "w:ResourceURI": SHELL_URI,
        "w:OperationTimeout": "PT5S",
        "w:MaxEnvelopeSize": "153600",
        **{name.replace("_", ":"): value for name, value in fields.items()},
    }
    rows = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in values.items() if value is not None)
    if shell_id:
        rows += f'<w:SelectorSet><w:Selector Name="ShellId">{shell_id}</w:Selector></w:SelectorSet>'
    if options:
        rows += f"<w:OptionSet>{options}</w:OptionSet>"
    spaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NS.items())
    return f"<s:Envelope {spaces}><s:Header>{rows}{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"


class Site:
    """A service whose commands run until they are told to end."""

    def __init__(self, quotas: Quotas | None = None) -> None:
        self.service = ShellService(Machine("SRV1"), quotas=quotas, runner=self._run)

    async def _run(self, command: Command) -> int:
        await command.stdin_ended.wait()
        command.stdout.append(bytes(command.stdin))
        return 0

    async def ask(self, request: str, user: User = ADMIN) -> ET.Element | int | None:
        """The answer; the code of a refusal, None for one without a code."""
        status, answer = await self.service.answer(request.encode(), user)
        if status == 500:
            return faults.parse_fault(status, answer).code
        return ET.fromstring(answer)  # noqa: S314 (the stand-in's)

    async def shell(self, user: User = ADMIN, extra: str = "") -> str:
        return found(await self.ask(envelope("Create", f"{CREATE}{extra}</rsp:Shell>"), user), "ShellId")

    async def command(self, shell: str, user: User = ADMIN) -> str:
        return found(await self.ask(envelope("Command", COMMAND, shell_id=shell), user), "CommandId")


def found(answer: ET.Element | int | None, name: str) -> str:
    assert isinstance(answer, ET.Element), f"refused with {answer}"
    text = answer.findtext(f".//rsp:{name}", None, NS)
    assert text
    return text


def on_site(work: Callable[[Site], Awaitable[object]], quotas: Quotas | None = None) -> object:
    async def go() -> object:
        site = Site(quotas)
        try:
            return await work(site)
        finally:
            site.service.close()

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("request_text", "code"),
    [
        ("no xml", 2150858817),
        ("<html/>", 2150858817),
        (envelope("Create", CREATE + "</rsp:Shell>", header='<x:Odd s:mustUnderstand="true"/>'), None),
        (envelope("Create", CREATE + "</rsp:Shell>", header="<x:Odd/>"), None),
        (envelope("Create", CREATE + "</rsp:Shell>", a_MessageID=None), 2150858769),
        (envelope("Create", CREATE + "</rsp:Shell>", w_ResourceURI="http://other"), 2150858811),
        (envelope("Create", CREATE + "</rsp:Shell>", w_OperationTimeout="PT-1S"), 2150858767),
        (envelope("Create", CREATE + "</rsp:Shell>", w_OperationTimeout="5"), 2150858767),
        (envelope("Create", CREATE + "</rsp:Shell>", w_MaxEnvelopeSize="big"), 2150858767),
        (envelope("Create", CREATE + "</rsp:Shell>", options='<w:Option Name="ODD">1</w:Option>'), 2150858809),
        (
            envelope("Create", CREATE + "</rsp:Shell>", options='<w:Option Name="WINRS_CODEPAGE">x</w:Option>'),
            2150858809,
        ),
        (envelope("Create", CREATE + "<rsp:Odd/></rsp:Shell>"), 2150858817),
        (envelope("Create", CREATE + "<rsp:IdleTimeOut>3600</rsp:IdleTimeOut></rsp:Shell>"), 2150858817),
        (envelope("Create", "<rsp:Shell><rsp:InputStreams>pipe</rsp:InputStreams></rsp:Shell>"), 2150858817),
        (envelope("Create"), 2150858817),
        (envelope("Reconnect", CREATE + "</rsp:Shell>"), 2150858771),
        (envelope("Command", COMMAND), 2150858843),
        (envelope("Command", COMMAND, shell_id="NOBODY"), 2150858843),
    ],
)
def test_what_is_not_known_is_refused_as_windows_refuses_it(request_text: str, code: int | None) -> None:
    assert on_site(lambda site: site.ask(request_text)) == code


def test_each_refusal_names_its_source_and_can_be_said() -> None:
    service = ShellService(Machine("SRV<1>"))
    for code, wording in REFUSALS.items():
        status, answer = service.refuse(code)
        fault = faults.parse_fault(status, answer)
        assert (fault.code, fault.subcode) == (code, wording.subcode)
        assert fault.reason.endswith(" ")
        assert wording.source in ("recorded", "public thread", "wsmerror.h", "inferred")


def test_shell_belongs_to_its_owner() -> None:
    async def work(site: Site) -> object:
        shell = await site.shell()
        return await site.ask(envelope("Command", COMMAND, shell_id=shell), OTHER)

    assert on_site(work) == 2150858843


def test_account_without_the_right_gets_no_shell() -> None:
    assert on_site(lambda site: site.ask(envelope("Create", CREATE + "</rsp:Shell>"), PLAIN)) == 5


def test_command_that_has_ended_counts_until_its_shell_goes() -> None:
    # Lesson 38, and why a shell is renewed: text shells give no operation back at Signal.
    async def work(site: Site) -> list[object]:
        shell = await site.shell()
        for _ in range(2):
            command = await site.command(shell)
            code = f"<rsp:Code>{SHELL}signal/terminate</rsp:Code>"
            await site.ask(envelope("Signal", f'<rsp:Signal CommandId="{command}">{code}</rsp:Signal>', shell_id=shell))
        refused = await site.ask(envelope("Command", COMMAND, shell_id=shell))
        elsewhere = await site.ask(envelope("Command", COMMAND, shell_id=await site.shell()))
        await site.ask(envelope("Delete", shell_id=shell))
        return [refused, elsewhere, bool(await site.command(await site.shell()))]

    assert on_site(work, Quotas(operations_per_user=2)) == [2150859174, 2150859174, True]


def test_limits_of_users_shells_and_processes() -> None:
    async def work(site: Site) -> list[object]:
        shell = await site.shell()
        await site.command(shell)
        return [
            await site.ask(envelope("Command", COMMAND, shell_id=shell)),
            await site.ask(envelope("Create", CREATE + "</rsp:Shell>")),
            await site.ask(envelope("Create", CREATE + "</rsp:Shell>"), OTHER),
        ]

    limits = Quotas(users=1, shells_per_user=1, processes_per_shell=1)
    assert on_site(work, limits) == [1816, 2150859173, 2150859179]


@pytest.mark.parametrize(
    ("quotas", "extra"),
    [
        (Quotas(shell_idle_s=0.05), ""),
        (Quotas(), "<rsp:IdleTimeOut>PT0.05S</rsp:IdleTimeOut>"),
        (Quotas(shell_run_s=0.05), ""),
        (Quotas(), "<rsp:Lifetime>PT0.05S</rsp:Lifetime>"),
    ],
)
def test_shell_ends_when_it_was_idle_or_its_time_is_over(quotas: Quotas, extra: str) -> None:
    async def work(site: Site) -> object:
        shell = await site.shell(extra=extra)
        await site.command(shell)
        await asyncio.sleep(0.1)
        gone = await site.ask(envelope("Command", COMMAND, shell_id=shell))
        assert site.service.shells == {}
        return gone

    assert on_site(work, quotas) == 2150858843


def test_shell_that_is_waited_on_is_not_idle() -> None:
    async def work(site: Site) -> object:
        shell = await site.shell()
        command = await site.command(shell)
        wish = f'<rsp:Receive><rsp:DesiredStream CommandId="{command}">stdout stderr</rsp:DesiredStream></rsp:Receive>'
        waiting = asyncio.ensure_future(
            site.ask(envelope("Receive", wish, shell_id=shell, w_OperationTimeout="PT0.2S"))
        )
        await asyncio.sleep(0.1)
        await site.shell()
        assert shell in site.service.shells
        return await waiting

    assert on_site(work, Quotas(shell_idle_s=0.05)) == 2150858793


def test_receive_of_a_command_that_is_ended_meanwhile_is_aborted() -> None:
    async def work(site: Site) -> object:
        shell = await site.shell()
        command = await site.command(shell)
        wish = f'<rsp:Receive><rsp:DesiredStream CommandId="{command}">stdout stderr</rsp:DesiredStream></rsp:Receive>'
        waiting = asyncio.ensure_future(site.ask(envelope("Receive", wish, shell_id=shell)))
        await asyncio.sleep(0.05)
        await site.ask(envelope("Delete", shell_id=shell))
        return await waiting

    assert on_site(work) == 995


def test_stdin_of_a_process_that_has_ended_is_refused() -> None:
    async def work(site: Site) -> list[object]:
        shell = await site.shell()
        command = await site.command(shell)
        data = base64.b64encode(b"data").decode()
        last = f'<rsp:Stream Name="stdin" CommandId="{command}" End="true">{data}</rsp:Stream>'
        sent = await site.ask(envelope("Send", f"<rsp:Send>{last}</rsp:Send>", shell_id=shell))
        assert isinstance(sent, ET.Element)
        again = await site.ask(envelope("Send", f"<rsp:Send>{last}</rsp:Send>", shell_id=shell))
        broken = last.replace(data, data[:-1])
        other = await site.command(shell)
        cut = await site.ask(envelope("Send", f"<rsp:Send>{broken.replace(command, other)}</rsp:Send>", shell_id=shell))
        return [again, cut]

    assert on_site(work) == [1460, 2150858817]


def test_program_without_a_path_is_found_by_cmd_alone() -> None:
    skip = '<w:Option Name="WINRS_SKIP_CMD_SHELL">TRUE</w:Option>'
    bare = COMMAND.replace("C:\\", "")

    async def work(site: Site) -> list[object]:
        shell = await site.shell()
        refused = await site.ask(envelope("Command", bare, shell_id=shell, options=skip))
        return [refused, isinstance(await site.ask(envelope("Command", bare, shell_id=shell)), ET.Element)]

    assert on_site(work) == [2147942402, True]
