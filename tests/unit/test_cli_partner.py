"""``msp partner`` and ``msp appliance claim`` against a Central that ``msp central serve`` runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid

import pytest

MSP = [sys.executable, "-m", "runners.cli"]
PASSWORD = "Pass-for-the-vault-1"
HOSTILE = "cl\x1b[2Jinic"


class Shell:
    """A folder, an environment, and ``msp`` in it."""

    def __init__(self, folder):
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MSP_")}
        self.environ = {**kept, "MSP_CENTRAL_DATABASE": f"sqlite:///{folder / 'central.db'}", "HOME": str(folder)}

    def __call__(self, *arguments, text="", code=0, **more):
        result = subprocess.run(
            [*MSP, *map(str, arguments)],
            input=text,
            capture_output=True,
            text=True,
            env={**self.environ, **more},
            cwd=self.folder,
            timeout=60,
            check=False,
        )
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        return result

    def json(self, *arguments, **more):
        return json.loads(self(*arguments, "--json", **more).stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("central"))
    (shell.folder / "key").write_text(
        shell("central", "bootstrap", "--partner", "Northwind", "--email", "a@n.example").stdout
    )
    central = subprocess.Popen(
        [*MSP, "central", "serve", "--port", "0"],
        env=shell.environ,
        cwd=shell.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert central.stdout is not None
    shell.environ["MSP_CENTRAL"] = central.stdout.readline().split()[-1]
    shell.environ["MSP_API_KEY"] = (shell.folder / "key").read_text().strip()
    yield shell
    central.send_signal(signal.SIGTERM)
    _, errors = central.communicate(timeout=20)
    assert (central.returncode, errors) == (0, "")


@pytest.fixture
def site(shell):
    return shell("partner", "sites", "create", f"Clinic {uuid.uuid4()}").stdout.strip()


def test_the_key_comes_from_a_file_or_the_environment_and_a_wrong_one_is_refused(shell, site):
    assert site in shell("partner", "sites", "list").stdout
    (shell.folder / "wrong").write_text("pk_partner_wrong\n")
    refused = shell("partner", "sites", "list", "--key-file", "wrong", code=1)
    assert len(refused.stderr.splitlines()) == 1
    shell("partner", "sites", "list", "--key-file", "key", MSP_API_KEY="pk_partner_wrong")
    for bad in ("pk_\N{SNOWMAN}_x", "pk_a_b\nX-Other: 1"):
        (shell.folder / "bad").write_text(bad)
        shell("partner", "sites", "list", "--key-file", "bad", code=2)


def test_what_belongs_to_a_site_is_shown_and_set_anew(shell):
    made = shell("partner", "sites", "create", "Scoped", "--subnet", "10.1.0.0/16", "--ou", "Clinic").stdout.strip()
    assert "subnet        10.1.0.0/16\nou            Clinic" in shell("partner", "sites", "scope", made).stdout
    changed = shell.json("partner", "sites", "scope", made, "--exclude-name", "T*", "--stale-after", 30)
    assert {name: value for name, value in changed.items() if value} == {
        "excluded_names": ["T*"],
        "stale_after_days": 30,
    }
    assert "stale-after   30 days" in shell("partner", "sites", "scope", made).stdout
    assert "everything" in shell("partner", "sites", "scope", made, "--everything").stdout
    refused = shell("partner", "sites", "scope", made, "--subnet", "10.1", code=2)
    assert "scope.subnets[0]" in refused.stderr


def test_every_list_is_one_document_with_items(shell, site):
    for call in (
        ("sites", "list"),
        ("sites", "hosts", site),
        ("sites", "domains", site),
        ("appliances", "list", site),
        ("codes", "list"),
        ("credentials", "list", site),
        ("targets", "list", site),
        ("packages", "list"),
        ("rollouts", "list", site),
    ):
        assert isinstance(shell.json("partner", *call)["items"], list)
        shell("partner", *call)


def test_a_hostile_name_reaches_no_terminal(shell):
    made = shell.json("partner", "sites", "create", HOSTILE)
    assert made["name"] == HOSTILE
    listed = shell("partner", "sites", "list").stdout
    assert made["site_id"] in listed
    assert "\x1b" not in listed
    assert "\x1b" not in shell("partner", "sites", "list", "--json").stdout


def test_a_stranger_site_is_one_line(shell):
    result = shell("partner", "sites", "status", "site-of-somebody-else", code=1)
    assert len(result.stderr.splitlines()) == 1
    assert "msp partner sites list" in result.stderr
    assert shell("partner", "sites", "status", "../../me", code=1).stdout == ""


@pytest.mark.parametrize(
    "call",
    [
        ("codes", "create", "--uses", "0"),
        ("codes", "create", "--days", "9999"),
        ("sites", "create", "x" * 300),
        ("sites", "create", "Clinic", "--time-zone", "Nowhere"),
    ],
)
def test_what_central_cannot_take_is_a_wrong_call(shell, call):
    assert len(shell("partner", *call, code=2).stderr.splitlines()) == 1


def test_a_code_from_shell_to_enrolment_with_the_code_on_stdin(shell, site, tmp_path):
    made = shell.json("partner", "codes", "create", "--site", site)
    config = tmp_path / "config.yaml"
    claimed = shell("appliance", "claim", "-", "--config", config, text=made["provision_code"] + "\n")
    assert made["provision_code"] not in claimed.stdout + claimed.stderr
    assert config.stat().st_mode & 0o777 == 0o600
    (appliance,) = shell.json("partner", "appliances", "list", site)["items"]
    assert appliance["state"] == "active"
    assert appliance["id"] in claimed.stdout

    # Another device with the same code is told so; its folder keeps no enrolment.
    other = tmp_path / "other" / "config.yaml"
    refused = shell("appliance", "claim", made["provision_code"].lower(), "--config", other, code=1)
    assert len(refused.stderr.splitlines()) == 1
    assert not other.exists()

    gone = shell.json("partner", "appliances", "revoke", site, appliance["id"])
    assert gone["state"] == "revoked"
    shell("appliance", "run", "--once", "--config", config, code=1)


def test_an_appliance_that_waits_is_approved_from_the_shell(shell, site, tmp_path):
    add_credential(shell, site, tmp_path)
    code = shell.json("partner", "codes", "create", "--site", site)["provision_code"]
    shell("appliance", "claim", "-", "--config", tmp_path / "config.yaml", text=code)
    (waiting,) = shell.json("partner", "appliances", "list", site)["items"]
    assert waiting["state"] == "awaiting_approval"
    assert "active" in shell("partner", "appliances", "approve", site, waiting["id"]).stdout


def test_a_revoked_code_is_no_good(shell, site, tmp_path):
    made = shell.json("partner", "codes", "create", "--site", site)
    assert shell.json("partner", "codes", "revoke", made["id"]) == {"id": made["id"], "state": "revoked"}
    result = shell("appliance", "claim", made["provision_code"], "--config", tmp_path / "c.yaml", code=1)
    assert "revoked" in result.stderr


def add_credential(shell, site, tmp_path):
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    return shell.json(
        *("partner", "credentials", "add", site, "--type", "service_account", "--user", "svc@corp.example"),
        *("--domain", "corp.example", "--password-file", path, "--trust-certificate", "AB:" * 31 + "AB"),
    )


def test_a_credential_is_stored_rotated_and_deleted_and_never_shown(shell, site, tmp_path):
    made = add_credential(shell, site, tmp_path)
    assert made["trusted_certificates"] == [{"sha256": "ab" * 32, "ca_pem": None}]
    rotated = shell.json("partner", "credentials", "rotate", site, made["id"], MSP_PASSWORD="Another-one-2")
    assert rotated["version"] == made["version"] + 1
    assert rotated["trusted_certificates"] == made["trusted_certificates"]
    assert shell.json("partner", "credentials", "retry", site, made["id"])["version"] == rotated["version"] + 1
    for shown in (
        shell("partner", "credentials", "list", site),
        shell("partner", "credentials", "list", site, "--json"),
    ):
        assert PASSWORD not in shown.stdout
    assert shell.json("partner", "credentials", "delete", site, made["id"])["state"] == "deleted"
    shell("partner", "credentials", "rotate", site, made["id"], MSP_PASSWORD="x", code=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--type", "service_account"], "--domain"),
        (["--type", "local_admin", "--domain", "corp.example"], "--domain"),
        (["--type", "winrm"], "--host"),
        (["--type", "local_admin", "--trust-certificate", "12"], "64 hex digits"),
    ],
)
def test_a_credential_of_the_wrong_shape_is_a_wrong_call(shell, site, options, words):
    result = shell("partner", "credentials", "add", site, "--user", "u", *options, MSP_PASSWORD=PASSWORD, code=2)
    assert words in result.stderr


def test_a_password_is_needed_from_somewhere(shell, site):
    result = shell("partner", "credentials", "add", site, "--user", "u", "--type", "local_admin", code=2)
    assert "--password-file" in result.stderr


def test_targets_come_from_a_file_that_is_checked(shell, site, tmp_path):
    path = tmp_path / "targets.json"
    path.write_text('[{"hostname": "srv1"}, {"hostname": "srv2", "excluded": true}]')
    assert [entry["hostname"] for entry in shell.json("partner", "targets", "set", site, path)["items"]] == [
        "srv1",
        "srv2",
    ]
    for wrong in ("[{", '{"hostname": "srv1"}', '[{"port": 5986}]', "\xff"):
        path.write_bytes(wrong.encode("latin-1"))
        assert str(path) in shell("partner", "targets", "set", site, path, code=2).stderr
    shell("partner", "targets", "set", site, tmp_path / "missing", code=2)
    assert len(shell.json("partner", "targets", "list", site)["items"]) == 2


def test_a_package_and_a_rollout_from_the_shell(shell, site, tmp_path):
    from msp_sdk.testing.builders import build_agent_package
    from msp_sdk.wire.converter import dumps

    package, content = build_agent_package("2.0.0")
    (tmp_path / "agent.exe").write_bytes(content)
    (tmp_path / "manifest.json").write_bytes(dumps(package.manifest))
    call = ("partner", "packages", "add", tmp_path / "agent.exe", "--name", package.name, "--version", package.version)
    digest = shell(*call, "--manifest", tmp_path / "manifest.json").stdout.strip()
    assert digest == package.sha256
    assert [entry["uploaded"] for entry in shell.json("partner", "packages", "list")["items"]] == [True]
    shell(*call, "--manifest", tmp_path / "agent.exe", code=2)
    shell(*call, "--manifest", tmp_path / "missing", code=2)

    rollout = shell("partner", "rollouts", "create", site, "--package", digest, "--role", "server").stdout.strip()
    for verb, state in (("pause", "paused"), ("resume", "active"), ("cancel", "cancelled")):
        assert shell.json("partner", "rollouts", verb, site, rollout)["state"] == state
    shell("partner", "rollouts", "create", site, "--package", "00" * 32, code=2)


def test_a_login_code_is_shown_with_its_place(shell):
    shown = shell("partner", "login-code").stdout
    assert f"{shell.environ['MSP_CENTRAL']}/login" in shown
    assert shell.json("partner", "login-code")["code"]


def test_a_second_partner_beside_a_running_central_sees_nothing_of_the_first(shell, site):
    key = shell("central", "bootstrap", "--partner", "Contoso", "--email", "b@c.example").stdout.strip()
    assert shell.json("partner", "sites", "list", MSP_API_KEY=key)["items"] == []
    shell("partner", "sites", "status", site, MSP_API_KEY=key, code=1)
    shell("central", "bootstrap", "--partner", "Contoso", "--email", "b@c.example", code=2)
    assert "up to date" in shell("central", "migrate").stdout


def test_a_port_in_use_is_said(shell):
    port = shell.environ["MSP_CENTRAL"].rpartition(":")[2]
    result = shell("central", "serve", "--port", port, code=2)
    assert "cannot be bound" in result.stderr


def test_no_secret_stands_in_the_arguments_of_a_process(shell, site, tmp_path):
    # A pipe holds the process while we look at it from outside, as any user of the machine can.
    process = subprocess.Popen(
        [
            *MSP,
            *("partner", "credentials", "add", site, "--type", "local_admin", "--user", r".\admin"),
            "--password-file",
            "-",
        ],
        env=shell.environ,
        cwd=shell.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    with open(f"/proc/{process.pid}/cmdline", "rb") as file:  # noqa: PTH123 (not a file of ours)
        arguments = file.read()
    process.communicate(PASSWORD.encode(), timeout=30)
    assert process.returncode == 0
    assert PASSWORD.encode() not in arguments
    assert shell.environ["MSP_API_KEY"].encode() not in arguments
