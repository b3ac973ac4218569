"""Run as ``python -I -B …/replica/__main__.py FOLDER``: makes this folder the package ``stratal_replica``.

The folder's parent may be unreadable inside the sandbox, so the package is made by hand, not found on a path.
"""

import importlib
import importlib.util
import os
import sys


def main() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - start-up time
    spec = importlib.util.spec_from_file_location(
        "stratal_replica", f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    if spec is None:
        sys.exit("cannot read the replica's own program")
    sys.modules["stratal_replica"] = importlib.util.module_from_spec(spec)
    importlib.import_module("stratal_replica.start").main(sys.argv[1])


if __name__ == "__main__":
    main()
