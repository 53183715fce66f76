"""``msp central``: serve, migrate, bootstrap."""

from __future__ import annotations

import argparse
import os
from typing import Any

from runners.cli.common import port_number


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("central", help="Central: serve, migrate, bootstrap")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    serve = actions.add_parser("serve", help="run Central")
    _add_database(serve)
    serve.add_argument("--host", default="127.0.0.1", metavar="H", help="default 127.0.0.1")
    serve.add_argument("--port", type=port_number, default=8080, metavar="P", help="default 8080; 0 takes a free one")
    serve.add_argument("--tls-cert", metavar="F")
    serve.add_argument("--tls-key", metavar="F")
    serve.add_argument("--behind-proxy", metavar="CIDR", action="append", default=[], help="who may connect instead")
    serve.add_argument("--public-url", metavar="U", help="how appliances and browsers reach Central")
    serve.set_defaults(run=_serve)

    migrate = actions.add_parser("migrate", help="bring the database's schema up to date")
    _add_database(migrate)
    migrate.set_defaults(run=_migrate)

    bootstrap = actions.add_parser("bootstrap", help="the first partner and its admin: prints the API key once")
    _add_database(bootstrap)
    bootstrap.add_argument("--partner", required=True, metavar="NAME")
    bootstrap.add_argument("--email", required=True, metavar="E")
    bootstrap.set_defaults(run=_bootstrap)


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database", metavar="URL", help="default sqlite:///central.db; else MSP_CENTRAL_DATABASE")


def _serve(options: argparse.Namespace) -> None:
    from central_app.app import serve
    from central_app.settings import make_settings

    serve(
        make_settings(
            os.environ,
            database=options.database,
            host=options.host,
            port=options.port,
            tls_cert=options.tls_cert,
            tls_key=options.tls_key,
            behind_proxy=options.behind_proxy,
            public_url=options.public_url,
        ),
        announce=lambda url: print(f"Central listens on {url}", flush=True),
    )


def _migrate(options: argparse.Namespace) -> None:
    from central_app.app import migrate
    from central_app.settings import make_settings

    migrate(make_settings(os.environ, database=options.database))
    print("the schema is up to date")


def _bootstrap(options: argparse.Namespace) -> None:
    from central_app.app import bootstrap
    from central_app.settings import make_settings

    key = bootstrap(make_settings(os.environ, database=options.database), options.partner, options.email)
    print(key.reveal())
