"""The `goodspeed` command: one entry for everything a person does on one machine.

Each command is its own module. Those of the runtime are imported when they are
asked for, since an operator's image does not carry them.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

from goodspeed_operator.cli import demo, node, plan, top, up

_RUNTIME = {"models": "goodspeed_runtime.models.command", "simulate": "goodspeed_runtime.simulate.command"}


class _Commands(TyperGroup):
    """The commands here, and those of the runtime where it is installed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_RUNTIME]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _RUNTIME:
            return super().get_command(ctx, cmd_name)
        try:
            module = importlib.import_module(_RUNTIME[cmd_name])
        except ImportError as error:
            missing = error.name
            return typer.main.get_command(_absent(cmd_name, str(missing)))
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command


def _absent(name: str, missing: str) -> typer.Typer:
    app = typer.Typer(add_completion=False)

    @app.command(name=name, help="Not available: install goodspeed[runtime].")
    def absent() -> None:
        typer.echo(f"error: {name} needs {missing}: pip install 'goodspeed[runtime]'", err=True)
        raise typer.Exit(1)

    return app


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    help="Distributed speculative decoding with fair goodput: fleets on one machine, models, simulations.",
)
app.command()(up.up)
app.command()(demo.demo)
app.command()(top.top)
app.command()(plan.plan)
app.command()(node.node)


def main() -> None:
    """Entry point of the console script."""
    app()
