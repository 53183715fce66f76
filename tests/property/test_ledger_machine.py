"""The logon ledger against every order of attempts: it never costs an account more than the protocol says."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from msp_sdk.errors import LogonNotAllowedError, NotAuthorisedHereError
from msp_sdk.models.credential import Credential
from msp_sdk.network.logons import LedgerOptions, LogonLedger
from msp_sdk.secret import Secret

IN_FLIGHT = 2
CREDENTIAL = Credential("c1", 1, "service_account", "svc@corp.example", lambda: Secret("x"), "corp.example")
HOSTS = st.sampled_from(["srv1", "srv2", "srv3"])


class LedgerMachine(RuleBasedStateMachine):
    """A model that knows only what an account sees: attempts that were let through, and their ends."""

    attempts = Bundle("attempts")

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "logons.db"
        self.ledger = LogonLedger(self.path, options=LedgerOptions(in_flight=IN_FLIGHT, wait_s=0.0))
        self.in_flight: list[str] = []
        self.open_blocks: list = []
        self.proven = False
        self.ended = False
        self.strikes = 0
        self.unknown_in_a_row = 0
        self.not_authorised: set[str] = set()
        self.suspects: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            # An attempt that is only dropped would write its end when it is collected, into a folder that is gone.
            for block in self.open_blocks:
                block.__exit__(None, None, None)
            self.folder.cleanup()

    def _ask(self, place: str, host: str):
        block = self.ledger.attempt(CREDENTIAL, place=place, host=host)
        try:
            attempt = block.__enter__()
        except (LogonNotAllowedError, NotAuthorisedHereError):
            return None
        assert not self.ended, "an attempt was allowed after the version had ended"
        if not self.proven:
            assert place == "controller", "a host saw a version that was not proven"
            assert not self.in_flight, "two logons of an unproven version were in flight"
        assert len(self.in_flight) < IN_FLIGHT, "more logons in flight than allowed"
        if place == "host":
            assert host not in self.not_authorised, "a host that had said no was asked again"
        self.in_flight.append(host)
        self.open_blocks.append(block)
        return block, attempt

    @rule(target=attempts)
    def ask_a_controller(self):
        return self._ask("controller", "dc1")

    @rule(target=attempts, host=HOSTS)
    def ask_a_host(self, host):
        return self._ask("host", host)

    @rule(pair=consumes(attempts))
    def it_succeeds(self, pair):
        if pair is None:
            return
        block, attempt = pair
        attempt.succeeded()
        self._leave(block, attempt)
        if not self.ended:
            self.proven = True
            self.unknown_in_a_row = 0
            if attempt.place == "controller":
                self.not_authorised |= self.suspects
                self.suspects.clear()
            else:
                self.suspects.discard(attempt.host)

    @rule(pair=consumes(attempts))
    def it_is_refused(self, pair):
        if pair is None:
            return
        block, attempt = pair
        verdict = attempt.refused("wrong-password")
        self._leave(block, attempt)
        self.strikes += 1
        if attempt.place == "controller" or self.ended:
            assert verdict == "refused"
            self.ended = True
        else:
            assert verdict in {"paused", "not-authorised-here"}
            self.proven = False
            self.suspects.add(attempt.host)

    @rule(pair=consumes(attempts))
    def nothing_was_sent(self, pair):
        if pair is None:
            return
        block, attempt = pair
        attempt.not_sent()
        self._leave(block, attempt)

    @rule(pair=consumes(attempts))
    def nobody_says_how_it_ended(self, pair):
        if pair is None:
            return
        block, attempt = pair
        unproven = not self.proven
        self._leave(block, attempt)
        if unproven or attempt.place == "controller":
            self.unknown_in_a_row += 1
            assert self.unknown_in_a_row <= 1 + IN_FLIGHT, "an attempt with an unknown end was repeated for ever"

    def _leave(self, block, attempt):
        block.__exit__(None, None, None)
        self.open_blocks.remove(block)
        self.in_flight.remove(attempt.host)

    @rule()
    def the_daemon_reads_the_file_anew(self):
        self.ledger = LogonLedger(self.path, options=LedgerOptions(in_flight=IN_FLIGHT, wait_s=0.0))

    @invariant()
    def the_state_is_what_the_account_saw(self):
        if hasattr(self, "ledger"):
            state = self.ledger.state(CREDENTIAL).state
            if self.ended:
                assert state == "refused"
            elif state == "proven":
                assert self.proven


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
