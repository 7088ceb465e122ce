"""`goodspeed-operator`: the operator's command line."""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False)


@app.command(no_args_is_help=True)
def operate() -> None:
    """Turn GoodSpeedClusters into fleets on Kubernetes.

    On one machine, without Kubernetes: goodspeed up -f examples/quickstart.yaml
    """


def main() -> None:
    """Entry point of the console script."""
    app()
