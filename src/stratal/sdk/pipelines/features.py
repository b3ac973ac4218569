"""Features as they were known at a moment, and as they are served now: one definition of both.

A model that is trained on what was not known yet when it would have been asked does well in the notebook and
badly afterwards. `join` gives each label the newest feature row that was known at the label's moment; `View.publish`
serves of each key the newest row, from the same table by the same columns.

>>> visits = stratal.features.view("visits", "ml.visits", on="user", known_at="known")
>>> visits.join(labels, at="at", into="ml.training")      # offline, for training
>>> visits.publish()                                      # online, for whoever asks the endpoint
>>> visits.lookup(user=7)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stratal.sdk.pipelines import lake
from stratal.sdk.pipelines.values import Table


@dataclass(frozen=True)
class View:
    """A definition of features: of the table, by `on`, the columns `features` (None: all others) that are known since
    `known_at`. Made by `view`."""

    name: str
    table: str
    on: tuple[str, ...]
    known_at: str
    features: tuple[str, ...] | None = None

    def join(self, labels: Table, *, at: str, into: str | None = None, features: Table | None = None) -> Any:
        """Each label with the view's features as they were known at its moment `at`; see `join`. `features` is the view's
        table as an earlier step left it."""
        wanted = None if self.features is None else list(self.features)
        return join(
            labels,
            self._table(features),
            on=list(self.on),
            at=at,
            known_at=self.known_at,
            into=into,
            columns=wanted,
        )

    def publish(self, features: Table | None = None) -> dict[str, Any]:
        """Serve of each key the newest row, of the table as it is or (`features`) as an earlier step left it.

        Others see it at once, so a step that does it says ``replay=False``, and it comes after the step that writes the
        table. Returns what is served: its ``snapshot`` and how many ``keys``.
        """
        table = self._table(features)
        definition = {
            "table": self.table,
            "on": list(self.on),
            "known_at": self.known_at,
            "features": None if self.features is None else list(self.features),
        }
        return lake.current().publish_features(self.name, definition, table.snapshot)

    def lookup(self, **key: Any) -> dict[str, Any] | None:
        """The features served of one key; None when nothing is known of it."""
        return self.lookup_all([key])[0]

    def lookup_all(self, keys: Iterable[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
        """The features served of each key, in their order."""
        return lake.current().lookup_features(self.name, [dict(key) for key in keys])

    def _table(self, given: Table | None) -> Table:
        if given is not None and given.name != self.table:
            raise ValueError(f"View {self.name} is of {self.table}, not of {given.name}.")
        return given or Table(self.table)


def view(
    name: str,
    table: str,
    *,
    on: str | Sequence[str],
    known_at: str,
    features: Sequence[str] | None = None,
) -> View:
    """Define features once: for the offline join and for what is served online."""
    keys = (on,) if isinstance(on, str) else tuple(on)
    if not keys:
        raise ValueError("A view needs the names of the columns that are its key.")
    return View(name, table, keys, known_at, None if features is None else tuple(features))


def join(
    labels: Table,
    features: Table,
    *,
    on: str | Sequence[str],
    at: str,
    known_at: str | None = None,
    into: str | None = None,
    columns: Sequence[str] | None = None,
) -> Any:
    """Each row of `labels` with the columns of the newest row of `features` that has the same `on` and was known then.

    `at` is the moment of a label, `known_at` (default: the same name) when a feature row became known: the two
    may be equal. A label for which nothing was known keeps NULLs. The rows are returned as dicts, or become the
    table `into`, which is returned. Columns that both have are the labels'; `columns` chooses among the others.
    """
    keys = [on] if isinstance(on, str) else list(on)
    if not keys:
        raise ValueError("A join needs the names of the columns that must be the same.")
    known = known_at or at
    place = lake.current()
    left = place.at(_path(labels.name), labels.snapshot)
    right = place.at(_path(features.name), features.snapshot)
    same = " AND ".join(f"l.{_quoted(key)} = f.{_quoted(key)}" for key in keys)
    taken = set(lake.columns(labels)) | {*keys, known}
    kept = [
        column
        for column in lake.columns(features)
        if column not in taken and (columns is None or column in columns)
    ]
    chosen = ", ".join(["l.*", *(f"f.{_quoted(column)}" for column in kept)])
    text = (
        f"SELECT {chosen} FROM (SELECT * FROM {left}) l ASOF LEFT JOIN (SELECT * FROM {right}) f "  # noqa: S608
        f"ON {same} AND l.{_quoted(at)} >= f.{_quoted(known)}"
    )
    return lake.read_sql(text) if into is None else lake.write_sql(into, text, "replace", [])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _path(name: str) -> str:
    return ".".join(map(_quoted, name.split(".")))
