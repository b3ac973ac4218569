"""Run as ``python -I -B …/replica/__main__.py FOLDER PLACE``: makes this folder the package ``stratal_workspace``.

The folder's parent may be unreadable inside the sandbox, so the package is made by hand, not found on a path.
"""

import importlib
import importlib.util
import os
import sys


def main() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        "stratal_workspace", f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    if spec is None:
        sys.exit("cannot read the replica's own program")
    sys.modules["stratal_workspace"] = importlib.util.module_from_spec(spec)
    importlib.import_module("stratal_workspace.start").main(*sys.argv[1:])


if __name__ == "__main__":
    main()
