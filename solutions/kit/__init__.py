"""What runs of a solution inside its jobs: a small package that is copied beside the solution's own code.

It knows nothing of Stratal but its public doors: S3 (pyarrow), Iceberg (pyiceberg) and MLflow, pointed at
the platform by environment variables. It measures and never judges: what is measured goes as JSON into the
solution's bucket, and ``stratal solutions`` holds it against the gates in ``solution.toml``.
"""

from kit import checks, evidence, fetching, plots
from kit.study import Study, Trial

__all__ = ["Study", "Trial", "checks", "evidence", "fetching", "plots"]
