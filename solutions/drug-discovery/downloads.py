"""What --download fetches, as tables."""

import io

import pandas as pd

ESOL_COLUMNS = {
    "Compound ID": "name",
    "smiles": "smiles",
    "measured log solubility in mols per litre": "logs",
}


def esol(data: bytes) -> pd.DataFrame:
    """Delaney's molecules: name, structure, measured log mol/l. Raises `ValueError` when a column is missing."""
    frame = pd.read_csv(io.BytesIO(data))
    lacking = set(ESOL_COLUMNS) - set(frame.columns)
    if lacking:
        raise ValueError(f"The file has no column {sorted(lacking)[0]!r}: it is not ESOL as it is known.")
    kept = frame[list(ESOL_COLUMNS)].rename(columns=ESOL_COLUMNS).dropna()
    return kept.astype({"name": str, "smiles": str, "logs": float}).reset_index(drop=True)
