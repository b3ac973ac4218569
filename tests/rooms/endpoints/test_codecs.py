"""What crosses wires: frames, tensors, Open Inference bodies, MLflow's scoring shapes."""

import json
import struct
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stratal.ai.endpoints.scoring import read_csv, read_json, write
from stratal.ai.endpoints.tensors import DATATYPES, Tensor, check_size, nested, values
from stratal.engines.runtimes.replica import frames
from stratal.engines.runtimes.replica.arrays import DTYPES, from_array, to_array
from stratal.gateway.inference import codec
from stratal.kernel.errors import Invalid

pytestmark = pytest.mark.fast


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 4), st.binary(max_size=200)), max_size=8),
    st.integers(1, 40),
)
def test_frames_come_whole_however_the_stream_is_cut(sent: list[tuple[int, int, bytes]], step: int) -> None:
    stream = b"".join(frames.pack(*frame) for frame in sent)
    splitter = frames.Splitter()
    seen = []
    for at in range(0, len(stream), step):
        seen += [(n, kind, bytes(body)) for n, kind, body in splitter.feed(stream[at : at + step])]
    assert seen == sent


@given(st.binary(max_size=60))
def test_bytes_that_are_no_frames_end_in_a_value_error(garbage: bytes) -> None:
    try:
        for _, _, body in frames.Splitter().feed(garbage):
            header, data = frames.split_tensors(body)
            frames.cut(data, [len(header)])
    except ValueError:
        pass


ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: hnp.arrays(np.dtype(DTYPES[name]), hnp.array_shapes(min_dims=1, max_dims=3, min_side=0))
)


@given(ARRAYS)
def test_the_servers_tensors_and_the_replicas_arrays_agree(array: np.ndarray) -> None:
    datatype, shape, data = from_array(array)
    tensor = Tensor("t", datatype, tuple(shape), data)
    check_size(datatype, shape, data)
    back = to_array(datatype, tuple(shape), memoryview(data))
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(np.array(values(tensor), array.dtype).reshape(shape), array)


@given(hnp.arrays(object, hnp.array_shapes(max_dims=2), elements=st.text(max_size=20)))
def test_text_travels_as_bytes_elements(array: np.ndarray) -> None:
    datatype, shape, data = from_array(array)
    assert datatype == "BYTES"
    check_size(datatype, shape, data)
    assert values(Tensor("t", datatype, tuple(shape), data)) == array.ravel().tolist()
    assert to_array(datatype, tuple(shape), memoryview(data)).tolist() == array.tolist()


def assert_read_or_refused(reader: Callable[[], object]) -> None:
    with suppress(Invalid):  # anything else is a defect of ours
        reader()


def body(**item: object) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], **item}]}).encode()


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2),
        elements=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_json_and_binary_requests_say_the_same(array: np.ndarray) -> None:
    item = {"name": "x", "datatype": "FP64", "shape": list(array.shape)}
    flat = json.dumps({"inputs": [{**item, "data": array.ravel().tolist()}]}).encode()
    deep = json.dumps({"inputs": [{**item, "data": array.tolist()}]}).encode()
    header = json.dumps({"inputs": [{**item, "parameters": {"binary_data_size": array.nbytes}}]}).encode()
    read = [codec.read(flat, None), codec.read(deep, None)]
    read.append(codec.read(header + array.tobytes(), len(header)))
    assert {bytes(asked.inputs.tensors[0].data) for asked in read} == {array.tobytes()}


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"inputs": []}',
        b'{"inputs": [1]}',
        body(),
        body(data=[1]),
        body(data=[1, 2, 3]),
        body(data="ab"),
        body(data=[1, "a"]),
        body(data=[[1], 2]),
        body(data=[1, 2], shape=[-1, 2]),
        body(data=[1, 2], shape=[2, True]),
        body(data=[1, 2], shape="2"),
        body(data=[1, 2], shape=[10**30]),
        body(data=[1, 2], shape=[1] * 99),
        body(data=[1, 2], datatype="FP65"),
        body(data=[1, 2], datatype=None),
        body(data=[1, 2], name=""),
        body(data=[1, 300], datatype="UINT8"),
        body(data=[1, 1.5], datatype="INT64"),
        body(data=[1, 2], datatype="BOOL"),
        body(data=[1, 2], datatype="BYTES"),
        body(data=[1, 2], datatype="BF16"),
        body(parameters={"binary_data_size": 16}),
        body(parameters={"binary_data_size": -1}),
        body(parameters={"shared_memory_region": "r"}),
        body(data=[1, 2], parameters=[]),
        b'{"id": 5, "inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1]}]}',
        b'{"outputs": [{"name": "y", "parameters": {"classification": 2}}],'
        b' "inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1]}]}',
        b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_a_malformed_request_is_the_callers_mistake(sent: bytes) -> None:
    with pytest.raises(Invalid):
        codec.read(sent, None)


@given(st.binary(max_size=80), st.one_of(st.none(), st.integers(0, 90)))
def test_no_body_whatsoever_is_our_defect(garbage: bytes, header_length: int | None) -> None:
    for reader in (
        lambda: codec.read(garbage, header_length),
        lambda: read_json(garbage),
        lambda: read_csv(garbage),
    ):
        assert_read_or_refused(reader)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]), JSON)
def test_any_json_in_a_scoring_shape_is_read_or_refused(shape: str, value: object) -> None:
    assert_read_or_refused(lambda: read_json(json.dumps({shape: value}).encode()))


@given(st.sampled_from(DATATYPES), JSON, JSON, JSON)
def test_any_json_in_an_open_inference_request_is_read_or_refused(
    datatype: str, shape: object, data: object, parameters: object
) -> None:
    item = {"name": "x", "datatype": datatype, "shape": shape, "data": data, "parameters": parameters}
    sent = json.dumps({"inputs": [item], "parameters": parameters}).encode()
    assert_read_or_refused(lambda: codec.read(sent, None))


def test_the_scoring_shapes_of_one_table_are_one_matrix() -> None:
    rows = [[1.5, 2], [3, None]]
    records = [dict(zip("ab", row, strict=True)) for row in rows]
    split = read_json(json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": rows}}).encode())
    assert split.columns == ["a", "b"]
    assert split.tensors[0].shape == (2, 2)
    packed = bytes(split.tensors[0].data)
    assert struct.unpack("<3d", packed[:24]) == (1.5, 2.0, 3.0)
    for other in (
        read_json(json.dumps({"dataframe_records": records}).encode()),
        read_json(json.dumps({"instances": records}).encode()),
        read_csv(b"a,b\n1.5,2\n3,\n"),
    ):
        assert (other.columns, bytes(other.tensors[0].data)) == (["a", "b"], packed)
    assert bytes(read_json(json.dumps({"instances": rows}).encode()).tensors[0].data) == packed


def test_columns_without_one_type_keep_their_values() -> None:
    data = [[1, "x", True, None], [2**60, "y", False, 3]]
    read = read_json(
        json.dumps({"dataframe_split": {"columns": ["i", "s", "b", "n"], "data": data}}).encode()
    )
    assert {t.name: values(t) for t in read.tensors} == {
        "i": [1, 2**60],
        "s": ["x", "y"],
        "b": [True, False],
        "n": [None, 3],
    }


def test_answers_are_mlflows_shapes() -> None:
    one = Tensor("predict", "INT64", (2,), struct.pack("<2q", 1, 0))
    two = Tensor("probabilities", "FP64", (2, 2), struct.pack("<4d", 0.5, 0.5, 1, float("nan")))
    assert json.loads(write([one], "pr_1")) == {"predictions": [1, 0], "prediction_id": "pr_1"}
    assert json.loads(write([two], "pr_1"))["predictions"] == [[0.5, 0.5], [1.0, None]]
    assert json.loads(write([one, two], "pr_1"))["predictions"][0] == {
        "predict": 1,
        "probabilities": [0.5, 0.5],
    }


def test_binary_outputs_are_cut_where_their_sizes_say() -> None:
    outputs = [
        Tensor("predict", "INT64", (1,), struct.pack("<q", 7)),
        Tensor("probabilities", "FP64", (1, 2), struct.pack("<2d", 0.25, 0.75)),
    ]
    asked = codec.Asked("me", read_json(b'{"instances": [[1]]}'), None, {"predict": False}, True)
    content, length = codec.write(asked, "m", "3", "pr_1", outputs)
    assert length is not None
    header = json.loads(content[:length])
    assert header["id"] == "me"
    assert header["parameters"] == {"prediction_id": "pr_1"}
    assert header["outputs"][0]["data"] == [7]
    assert header["outputs"][1]["parameters"] == {"binary_data_size": 16}
    assert struct.unpack("<2d", content[length:]) == (0.25, 0.75)


def test_nested_lists_follow_the_shape() -> None:
    assert nested(Tensor("t", "INT8", (2, 1, 2), bytes([1, 2, 3, 4]))) == [[[1, 2]], [[3, 4]]]
    assert nested(Tensor("t", "INT8", (2, 0), b"")) == [[], []]
