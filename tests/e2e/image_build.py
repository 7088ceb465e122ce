"""What goes into an image, without an engine: the Dockerfile's own commands, in a bare environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

PLACE = "/opt/goodspeed"
"""Where images hold the environment; here it stands for a folder of the test's."""


class BuildError(RuntimeError):
    """A command of the Dockerfile failed; the message ends with what it said."""


@dataclass
class Stage:
    """One stage: its base, and its instructions in order."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """The arguments of every instruction of a kind."""
        return [arguments for found, arguments in self.instructions if found == name]

    @property
    def environment(self) -> dict[str, str]:
        """What ENV sets, not expanded."""
        return dict(re.findall(r"(\w+)=(\S+)", " ".join(self.all("ENV"))))


def read(dockerfile: Path) -> tuple[dict[str, str], list[Stage]]:
    """The ARGs before the first stage, and the stages."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            stages.append(Stage(rest))
        elif name == "ARG" and not stages:
            arguments |= dict([rest.split("=", 1)])
        elif name:
            stages[-1].instructions.append((name, rest.strip()))
    return arguments, stages


class Image:
    """The environment of an image, built into a folder."""

    def __init__(self, dockerfile: Path, context: Path, folder: Path) -> None:
        self.arguments, self.stages = read(dockerfile)
        self._context = context
        self.place = folder / "goodspeed"
        self._source = folder / "src"

    def build(self) -> None:
        """Runs the first stage.

        Raises:
            BuildError: one of its commands failed.
        """
        self._source.mkdir(parents=True)
        environment = {"PATH": f"{Path(sys._base_executable).parent}:{os.environ['PATH']}"}  # type: ignore[attr-defined]
        for name, rest in self.stages[0].instructions:
            if name == "ENV":
                for key, value in re.findall(r"(\w+)=(\S+)", rest):
                    environment[key] = value.replace(PLACE, str(self.place)).replace(
                        "$PATH", environment["PATH"]
                    )
            elif name == "ARG":
                key, _, value = rest.partition("=")
                environment.setdefault(key, value.strip('"'))
            elif name == "COPY":
                self._copy(rest.split())
            elif name == "RUN":
                self._run(rest.replace(PLACE, str(self.place)), environment)

    def _copy(self, paths: list[str]) -> None:
        *sources, target = paths
        for source in sources:
            there = self._context / source
            if there.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "tests", "build", ".venv")
                shutil.copytree(there, self._source / target, ignore=ignored)
            else:
                shutil.copy(there, self._source / target)

    def _run(self, command: str, environment: dict[str, str]) -> None:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self._source,
            env={**_outside(), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BuildError(f"{command}: {done.stdout[-1500:]}{done.stderr[-1500:]}")

    def command(self, *arguments: str) -> list[str]:
        """A command of the image."""
        program, *rest = arguments
        return [str(self.place / "bin" / program), *rest]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command as the image would, with its environment and nothing of ours."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def environment(self, **more: str) -> dict[str, str]:
        """What a container finds: the last stage's ENV."""
        stage = self.stages[-1].environment
        path = f"{self.place / 'bin'}:/usr/bin:/bin"
        return {**stage, "HOME": "/nonexistent", "PATH": path, **more}

    @property
    def entrypoint(self) -> list[str]:
        """What the image runs by default."""
        last = self.stages[-1]
        found: list[str] = json.loads((last.all("ENTRYPOINT") or last.all("CMD"))[0])
        return found

    @property
    def mebibytes(self) -> float:
        """The size of the environment, the base aside."""
        files = (path for path in self.place.rglob("*") if path.is_file() and not path.is_symlink())
        return sum(path.stat().st_size for path in files) / 2**20


def _outside() -> dict[str, str]:
    """How this machine reaches a package index."""
    return {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_", "REQUESTS_"))}
