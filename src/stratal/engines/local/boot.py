"""Runs a module of this folder in a bare interpreter: ``python -I -S -E boot.py keeper|entry|gang …``.

Isolated mode keeps a script's own folder off the path, so it is named here, behind the standard
library. Nothing else of an installation is importable: start-up stays at some ten milliseconds.

``python boot.py zygote`` alone runs in an interpreter as workloads have it, whose own packages come
later: this folder is imported from and then forgotten.
"""

import sys

if __name__ == "__main__":
    program = sys.argv.pop(1)
    if program == "zygote":
        bare, main_module = set(sys.modules), dict(globals())
        path = sys.path[1:]
        sys.path[:] = [__file__.rsplit("/", 4)[0], *(f for f in path if not f.endswith("-packages"))]
        from stratal.engines.local.zygote import main as begin

        sys.path[:] = path
        for name in [name for name in sys.modules if name.partition(".")[0] == "stratal"]:
            del sys.modules[name]
        begin(bare, main_module)()
    sys.path.append(__file__.rsplit("/", 4)[0])
    if program == "keeper":
        from stratal.engines.local.keeper import main
    elif program == "entry":
        from stratal.engines.local.entry import main
    elif program == "gang":
        from stratal.engines.local.gang import main
    else:
        sys.exit(f"no such program: {program}")
    main(sys.argv[1:])
