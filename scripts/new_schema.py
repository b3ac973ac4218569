"""Write the initial revision anew from the tables as declared.

For the time before the first release only: afterwards each change is a revision of its own.
Usage: .venv/bin/python scripts/new_schema.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config

ROOT = Path(__file__).parent.parent
MIGRATIONS = ROOT / "src" / "stratal" / "app" / "migrations"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.set_main_option("sqlalchemy.url", f"sqlite:///{scratch}/empty.db")
        for old in (MIGRATIONS / "versions").glob("0001_*.py"):
            old.unlink()
        command.revision(config, "initial", autogenerate=True, rev_id="0001")
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(MIGRATIONS)], check=True)
    subprocess.run([sys.executable, "-m", "ruff", "check", "-q", "--fix", str(MIGRATIONS)], check=False)


if __name__ == "__main__":
    main()
