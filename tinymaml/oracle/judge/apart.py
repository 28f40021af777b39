"""Run a module of this package in a process of its own, which imports nothing from the current folder.

    command("tinymaml.oracle.judge.worker", "mine:maml")       what to start; it calls the module's main(["mine:maml"])

A file there named like a module of Python, or a package named like this one, is the candidate's. The candidate's
process may import it, once it looks for the candidate; a judge never does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def command(module: str, *arguments: str, isolated: bool = False) -> list[str]:
    """The command that calls `main(arguments)` of a module.

    Args:
        isolated: also ignore PYTHONPATH, sitecustomize in it, and the like; packages are found where they are found
            here.
    """
    folders = _folders(("numpy", "safetensors")) if isolated else []
    return [sys.executable, *(["-I"] if isolated else []), os.path.abspath(__file__), module, json.dumps(folders),
            *arguments]  # fmt: skip


def _folders(packages: tuple[str, ...]) -> list[str]:
    """The folders of the packages."""
    specs = [importlib.util.find_spec(name) for name in packages]
    return list(dict.fromkeys(os.path.dirname(os.path.dirname(s.origin)) for s in specs if s and s.origin))


@contextmanager
def without_current_folder() -> Iterator[None]:
    """Within this context the current folder is not looked through for modules: a candidate can write there."""
    before, here = list(sys.path), os.getcwd()
    sys.path[:] = [p for p in before if os.path.abspath(p) != here]
    try:
        yield
    finally:
        sys.path[:] = before


def _import_ours() -> None:
    """Import the package that this file is part of, whatever else has its name."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    spec = importlib.util.spec_from_file_location(
        "tinymaml", os.path.join(here, "__init__.py"), submodule_search_locations=[here]
    )
    assert spec and spec.loader
    sys.modules["tinymaml"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["tinymaml"])


if __name__ == "__main__":
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]  # the folder of this file
    sys.path += [folder for folder in json.loads(sys.argv[2]) if folder not in sys.path]
    _import_ours()
    sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[3:]))
