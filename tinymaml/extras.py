"""Optional libraries, asked for by name.

    tqdm = require("tqdm", "train")        # the module, or an ImportError with the command that installs it

The engine needs NumPy alone. Everything else is an extra, imported where it is used: `import tinymaml` stays light.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which `pip install "tinymaml[extra]"` brings.

    Raises:
        ImportError: the module is not installed; the message is the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as cause:
        raise ImportError(f'{module} is needed here and is not installed: pip install "tinymaml[{extra}]"') from cause
