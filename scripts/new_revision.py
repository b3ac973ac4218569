"""Write the next revision of the database's schema: what the declared tables have and the last revision lacks.

Usage: .venv/bin/python scripts/new_revision.py "what changes"

Read what it wrote before committing it: a rename is seen as a removal and an addition, and rows that exist
need values for a column that may not be null. A home made by any earlier revision must come up with this one.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config

ROOT = Path(__file__).parent.parent
MIGRATIONS = ROOT / "src" / "stratal" / "app" / "migrations"


def main(what: str) -> None:
    last = sorted(MIGRATIONS.joinpath("versions").glob("[0-9]*.py"))[-1].stem.split("_")[0]
    with tempfile.TemporaryDirectory() as scratch:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.set_main_option("sqlalchemy.url", f"sqlite:///{scratch}/empty.db")
        command.upgrade(config, "head")
        command.revision(config, what, autogenerate=True, rev_id=f"{int(last) + 1:04}")
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(MIGRATIONS)], check=True)
    subprocess.run([sys.executable, "-m", "ruff", "check", "-q", "--fix", str(MIGRATIONS)], check=False)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not re.fullmatch(r"[a-z][a-z0-9 ,-]{2,60}", sys.argv[1]):
        sys.exit(__doc__)
    main(sys.argv[1])
