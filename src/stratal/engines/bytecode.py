"""Byte code of the programs that replicas run: their own interpreters may not write it, and would compile each time."""

import compileall
import threading
from pathlib import Path


def compile_aside() -> None:
    """Compile them where they lie, in the background; where nothing can be written there, replicas do without.

    An installed package has this done already: it is for a checkout.
    """
    programs = sorted(Path(__file__).parent.glob("*/replica"))

    def work() -> None:
        for program in programs:
            compileall.compile_dir(program, quiet=2)

    threading.Thread(target=work, name="byte code of replicas", daemon=True).start()
