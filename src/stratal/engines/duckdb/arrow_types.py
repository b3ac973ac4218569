"""Arrow schemas as Iceberg can keep them, and columns brought into a table's shape."""

import pyarrow as pa
import pyarrow.compute as pc

from stratal.engines.duckdb.statement import Refused

_PLAIN: dict[pa.DataType, pa.DataType] = {
    pa.int8(): pa.int32(),
    pa.int16(): pa.int32(),
    pa.uint8(): pa.int32(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.month_day_nano_interval(): pa.string(),
    pa.null(): pa.string(),
}


def storable(schema: pa.Schema) -> pa.Schema:
    """The schema with each type as the nearest that Iceberg has and that holds every value of it."""
    return pa.schema([field.with_type(_storable(field.type)).remove_metadata() for field in schema])


def _storable(kind: pa.DataType) -> pa.DataType:
    if kind in _PLAIN:
        return _PLAIN[kind]
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if pa.types.is_time(kind):
        return pa.time64("us")
    if pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_dictionary(kind):
        return _storable(kind.value_type)
    if pa.types.is_decimal(kind) and kind.bit_width < 128:
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_decimal256(kind):
        return pa.decimal128(min(kind.precision, 38), kind.scale)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_storable(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_storable(kind.key_type), _storable(kind.item_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_storable(kind.value_type))
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name not in {"arrow.uuid"}:
        return _storable(kind.storage_type)
    return kind


class Shape:
    """Brings batches of `source` into `target`: by name, or by position when `columns` names the target's own."""

    def __init__(
        self, source: pa.Schema, target: pa.Schema, *, columns: list[str] | None, positional: bool
    ) -> None:
        self.target = target
        if positional:
            wanted = columns if columns is not None else target.names
            if len(wanted) != len(source.names):
                raise Refused(
                    "columns_do_not_match",
                    f"The rows have {len(source.names)} columns, but {len(wanted)} are to be filled: {', '.join(wanted)}.",
                )
            self._from = {name: index for index, name in enumerate(wanted)}
        else:
            self._from = {name: index for index, name in enumerate(source.names)}
            if len(self._from) != len(source.names):
                raise Refused("columns_do_not_match", "Two columns of the rows have the same name.")
        unknown = [name for name in self._from if name not in target.names]
        if unknown:
            raise Refused(
                "columns_do_not_match",
                f"The table has no column {', '.join(repr(name) for name in unknown[:5])}.",
                f"Its columns are: {', '.join(target.names)}.",
            )
        missing = [f.name for f in target if f.name not in self._from and not f.nullable]
        if missing:
            raise Refused(
                "columns_do_not_match", f"The rows lack the required column {', '.join(map(repr, missing))}."
            )

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Raises `Refused` for a value that the table's type cannot hold, or a NULL where none may be."""
        arrays = []
        for field in self.target:
            index = self._from.get(field.name)
            if index is None:
                arrays.append(pa.nulls(batch.num_rows, field.type))
                continue
            array = batch.column(index)
            if array.type != field.type:
                array = _cast(array, field)
            if not field.nullable and array.null_count:
                raise Refused("value_does_not_fit", f"Column {field.name!r} is required, but a row has none.")
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, schema=self.target)


def _cast(array: pa.Array, field: pa.Field) -> pa.Array:
    try:
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        # Times may be cut to microseconds, which is all that Iceberg keeps; numbers may not lose anything.
        precise = not (pa.types.is_temporal(array.type) and pa.types.is_temporal(field.type))
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if isinstance(field.type, pa.BaseExtensionType):
            return pa.ExtensionArray.from_storage(field.type, pc.cast(array, field.type.storage_type))
        return pc.cast(array, field.type, safe=precise)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Refused("value_does_not_fit", f"Column {field.name!r} ({field.type}): {error}") from error
