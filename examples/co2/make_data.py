# /// script
# dependencies = ["statsmodels"]
# ///
"""Writes the weekly CO2 measurements of Mauna Loa that statsmodels bundles (public domain) as one CSV file per decade.

    uv run make_data.py data/            or: pip install statsmodels && python make_data.py data/

The data: C. D. Keeling and T. P. Whorf, Scripps Institution of Oceanography, 1958 to 2001; 59 weeks have no value.
"""

import sys
from pathlib import Path

import statsmodels.api as sm

frame = sm.datasets.co2.load_pandas().data
folder = Path(sys.argv[1] if len(sys.argv) > 1 else "data")
folder.mkdir(parents=True, exist_ok=True)
for decade, rows in frame.groupby(frame.index.year // 10 * 10):
    path = folder / f"co2-{decade}s.csv"
    rows.rename_axis("week").to_csv(path, date_format="%Y-%m-%d", float_format="%.1f")
    print(f"{path}: {len(rows)} weeks")
