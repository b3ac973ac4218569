"""What --download fetches: MovieLens 100K, as events in time."""

import io

import pandas as pd
from kit import fetching

LIKED = 4
"""Stars from which on a rating counts as a pick."""


def picks(archive: bytes) -> pd.DataFrame:
    """person, item (numbered from 0), time: films that were given four stars or more, in the order of time."""
    text = fetching.member(archive, "ml-100k/u.data")
    names = ["person", "item", "stars", "time"]
    frame = pd.read_csv(io.BytesIO(text), sep="\t", header=None, names=names, dtype="int64")
    liked = frame[frame.stars >= LIKED].sort_values(["time", "person", "item"], kind="stable")
    for column in ("person", "item"):
        liked[column] = pd.factorize(liked[column], sort=True)[0]
    return liked[["person", "item", "time"]].reset_index(drop=True)
