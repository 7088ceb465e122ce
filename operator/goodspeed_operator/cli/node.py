"""`goodspeed node`: this machine as a node of a control plane that has none, such as a test's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from goodspeed_operator.cli.session import default_state, fail, run

Capacity = Annotated[
    list[str] | None,
    typer.Option("--capacity", metavar="NAME=AMOUNT", help="What the scheduler may give, such as cpu=8."),
]
Images = Annotated[
    list[str] | None,
    typer.Option("--image", help="Image repository that this installation stands for."),
]


def node(
    name: Annotated[str, typer.Option(envvar="GOODSPEED_NODE_NAME", help="Name of the node.")] = "local",
    capacity: Capacity = None,
    image: Images = None,
    state_dir: Annotated[
        Path | None, typer.Option(envvar="GOODSPEED_STATE_DIR", help="Folder of logs and volumes.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(envvar="GOODSPEED_CACHE", help="Model cache folder.")] = None,
) -> None:
    """Run the pods of a node as processes on this machine, for a control plane without kubelets.

    Takes the API server from the kubeconfig. Pods get loopback addresses, so only this machine reaches them:

        goodspeed node --capacity cpu=8 --capacity memory=32Gi
    """
    amounts = dict(entry.partition("=")[::2] for entry in capacity or ["cpu=8", "memory=32Gi"])
    if not all(amounts.values()):
        raise fail("--capacity must be NAME=AMOUNT, such as cpu=8", 2)
    images = image or ["goodspeed/runtime", "goodspeed/operator"]
    state = state_dir or default_state(name)

    async def work() -> int:
        try:
            from kubernetes.aio.config import ConfigException

            from goodspeed_operator.cluster.client import APIError, KubernetesAPI
            from goodspeed_operator.local.node import Node
            from goodspeed_operator.local.pod_processes import PodProcesses
        except ImportError as error:
            raise fail(f"node needs {error.name}: pip install 'goodspeed[operator,runtime]'") from error
        try:
            async with await KubernetesAPI.connect() as api:
                runtime = PodProcesses(api, state=state, images=images, cache=cache)
                await Node(api, runtime, name=name, capacity=amounts).run()
        except (ConfigException, APIError) as error:
            raise fail(str(error)) from error
        return 0

    raise typer.Exit(run(work))
