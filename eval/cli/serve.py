"""`calvin-eval serve`: any local policy behind openpi's protocol."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from calvin_eval.cli.options import option
from calvin_eval.cli.settings import setting_options
from calvin_eval.console.saying import say
from calvin_eval.errors import UsageError
from calvin_eval.wrappers.servers.loopback import is_loopback

if TYPE_CHECKING:
    from calvin_eval.running.serving import PolicyServer

_TOKEN = "CALVIN_EVAL_TOKEN"


@click.command(short_help="Serve a policy over the network in openpi's protocol.")
@option("--ckpt", metavar="POLICY", required=True, help="As for a run: a path, module:Class, …")
@setting_options("policy")
@option("--host", metavar="HOST", default="127.0.0.1", help="Interface.")
@option("--port", type=click.IntRange(0, 65535), default=8000, help="0: any.")
@option(
    "--token-env", metavar="NAME", default=_TOKEN,
    help="Environment variable with the key that clients must send, if it is set.",
)  # fmt: skip
@option("--open", "open_to_all", is_flag=True, help="Serve a network without a key.")
@option("--max-size", type=click.IntRange(1), metavar="MB", default=64, help="Of a request.")
@option("--max-connections", type=click.IntRange(1), metavar="N", default=64, help="At a time.")
@option(
    "--max-instances", type=click.IntRange(1), metavar="N", default=8,
    help="Of a policy that keeps few sessions apart, one per connection.",
)  # fmt: skip
@setting_options("seed", "max_batch", "batch_wait", "trust")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def serve(
    host: str,
    port: int,
    token_env: str,
    open_to_all: bool,
    overrides: tuple[str, ...],
    **flags: Any,
) -> None:
    """Serve a policy over the network, in openpi's protocol, until Ctrl-C.

    `calvin-eval --ckpt ws://HOST:PORT` evaluates it from another process or machine as if it were
    there; clients of openpi's own protocol send rgb_static, robot_obs, prompt and so on, and get
    CALVIN's relative actions.
    """
    token = os.environ.get(token_env) or None
    if token is None and not open_to_all and not is_loopback(host):
        raise UsageError(
            f"expected a key in the environment variable {token_env} to serve on {host}, where "
            "others can connect; found none. Set one, or say --open."
        )
    from calvin_eval.config.compose import compose_config
    from calvin_eval.config.schema import SHORTHANDS
    from calvin_eval.running.prepare import batch_rules, policy_spec
    from calvin_eval.running.serving import PolicyServer, ServeRules

    max_size, preset = flags.pop("max_size"), flags.pop("preset")
    most = {name: flags.pop(name) for name in ("max_connections", "max_instances")}
    chosen = () if preset is None else (f"policy={preset}",)
    given = {SHORTHANDS.get(k, k): value for k, value in flags.items() if value is not None}
    config = compose_config([*chosen, *overrides], given)
    spec = policy_spec(config)
    if spec.python:
        raise UsageError("expected no policy.python: start calvin-eval serve with that Python")
    loaded = spec.load()
    batch = batch_rules(config)
    rules = ServeRules(
        host=host, port=port, token=token, max_size=max_size * 2**20, batch=batch, **most
    )
    server = PolicyServer(loaded, make=lambda: spec.load().policy, rules=rules)
    say(f"policy: {loaded.description}", err=True)
    say(f"serving at {server.address}; Ctrl-C stops")
    _run(server)


def _run(server: PolicyServer) -> None:
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("stopping", err=True)
    finally:
        server.close()
