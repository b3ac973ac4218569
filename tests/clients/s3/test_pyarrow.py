"""Arrow's own S3 file system, which pyiceberg and pandas read and write through."""

import os

import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as parquet
import pytest


@pytest.fixture
def arrow(mine) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        endpoint_override=mine.env["AWS_ENDPOINT_URL"],
        access_key=mine.env["AWS_ACCESS_KEY_ID"],
        secret_key=mine.env["AWS_SECRET_ACCESS_KEY"],
        region=mine.env["AWS_REGION"],
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
    )


def test_files_small_and_large(arrow: fs.S3FileSystem, bucket: str) -> None:
    for name, size in (("empty", 0), ("small é+ b", 1000), ("large", 23_000_000)):
        data = os.urandom(size)
        with arrow.open_output_stream(f"{bucket}/dir/{name}") as out:
            out.write(data)
        with arrow.open_input_stream(f"{bucket}/dir/{name}") as back:
            assert back.read() == data
        with arrow.open_input_file(f"{bucket}/dir/{name}") as file:
            assert file.size() == size
            if size:
                assert file.read_at(100, 50) == data[50:150]
    found = arrow.get_file_info(fs.FileSelector(f"{bucket}/dir"))
    assert sorted((f.base_name, f.size) for f in found) == [
        ("empty", 0),
        ("large", 23_000_000),
        ("small é+ b", 1000),
    ]


def test_folders(arrow: fs.S3FileSystem, bucket: str) -> None:
    arrow.create_dir(f"{bucket}/a/b")
    with arrow.open_output_stream(f"{bucket}/a/b/f") as out:
        out.write(b"x")
    arrow.copy_file(f"{bucket}/a/b/f", f"{bucket}/a/g")
    arrow.move(f"{bucket}/a/g", f"{bucket}/h")
    assert arrow.get_file_info(f"{bucket}/a").type == fs.FileType.Directory
    assert arrow.get_file_info(f"{bucket}/a/g").type == fs.FileType.NotFound
    arrow.delete_dir(f"{bucket}/a")
    assert [f.path for f in arrow.get_file_info(fs.FileSelector(bucket, recursive=True))] == [f"{bucket}/h"]
    arrow.delete_file(f"{bucket}/h")
    arrow.delete_dir(bucket)


def test_parquet(arrow: fs.S3FileSystem, bucket: str) -> None:
    table = pa.table({"n": list(range(10_000)), "s": [str(n) for n in range(10_000)]})
    parquet.write_table(table, f"{bucket}/t.parquet", filesystem=arrow, row_group_size=1000)
    assert parquet.read_table(f"{bucket}/t.parquet", filesystem=arrow) == table
    some = parquet.read_table(f"{bucket}/t.parquet", filesystem=arrow, filters=[("n", ">", 9_990)])
    assert some.num_rows == 9
