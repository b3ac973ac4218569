"""Runs a module of this folder in a bare interpreter: ``python -I -S -E boot.py keeper|launcher|entry|gang …``.

Isolated mode keeps a script's own folder off the path, so it is named here, behind the standard
library. Nothing else of an installation is importable: start-up stays at some ten milliseconds.
"""

import sys

if __name__ == "__main__":
    sys.path.append(__file__.rsplit("/", 4)[0])
    program = sys.argv.pop(1)
    if program == "keeper":
        from stratal.engines.local.keeper import main
    elif program == "launcher":
        from stratal.engines.local.launcher import main
    elif program == "entry":
        from stratal.engines.local.entry import main
    elif program == "gang":
        from stratal.engines.local.gang import main
    else:
        sys.exit(f"no such program: {program}")
    main(sys.argv[1:])
