"""Python files that are in no package."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def load(path: Path, name: str | None = None) -> Any:
    """The file as a module, under its own name or another. Whoever wants it anew gets it anew."""
    spec = importlib.util.spec_from_file_location(name or path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there.
    spec.loader.exec_module(module)
    return module
