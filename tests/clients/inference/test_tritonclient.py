"""Open Inference as ``tritonclient.http`` speaks it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.http.auth import BasicAuth
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from .conftest import Served


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.address) as client:
        yield client


def tensor(name: str, array: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """The status and message of the error that the call must end in."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    return str(caught.value.status()), str(caught.value.message())


def test_health_and_metadata(client: triton.InferenceServerClient, served: Served) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata(headers=served.headers)["extensions"] == ["binary_tensor_data"]
    assert client.is_model_ready("tumour", headers=served.headers)
    assert not client.is_model_ready("nothing", headers=served.headers)
    metadata = client.get_model_metadata("tumour", headers=served.headers)
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "input-0", "datatype": "FP64", "shape": [-1, 30]}]
    assert metadata["outputs"] == [
        {"name": "predict", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP64", "shape": [-1, 2]},
    ]
    index = client.get_model_repository_index(headers=served.headers)
    assert [(m["name"], m["state"]) for m in index] == [
        (name, "READY") for name in ("iris", "matrix", "people", "tumour")
    ]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_every_way_to_write_a_request_has_the_models_own_answer(
    client: triton.InferenceServerClient,
    served: Served,
    binary_in: bool,
    binary_out: bool,
    compression: str | None,
) -> None:
    model = served.models["tumour"]
    rows = np.array(model["rows"])
    answer = client.infer(
        "tumour",
        [tensor("input-0", rows, binary=binary_in)],
        outputs=[triton.InferRequestedOutput(name, binary_out) for name in ("predict", "probabilities")],
        request_id="mine",
        headers=dict(served.headers),
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_array_equal(answer.as_numpy("predict"), model["predict"])
    np.testing.assert_allclose(answer.as_numpy("probabilities"), model["probabilities"], rtol=1e-12)
    said = answer.get_response()
    assert (said["id"], said["model_name"], said["model_version"]) == ("mine", "tumour", "1")
    assert said["parameters"]["prediction_id"].startswith("pr_")


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i4", "i8", "u1"])
def test_the_answer_does_not_depend_on_the_datatype_of_the_request(
    client: triton.InferenceServerClient, served: Served, dtype: str
) -> None:
    rows = np.ones((2, 3)) * 7
    whole = client.infer("matrix", [tensor("x", rows)], headers=served.headers).as_numpy("predict")
    other = client.infer("matrix", [tensor("x", rows.astype(dtype))], headers=served.headers)
    np.testing.assert_array_equal(other.as_numpy("predict"), whole)


def test_without_outputs_named_all_come_in_binary(
    client: triton.InferenceServerClient, served: Served
) -> None:
    model = served.models["iris"]
    answer = client.infer("iris", [tensor("input-0", np.array(model["rows"]))], headers=served.headers)
    assert [label.decode() for label in answer.as_numpy("predict")] == model["predict"]
    np.testing.assert_allclose(answer.as_numpy("probabilities"), model["probabilities"], rtol=1e-9)
    one = client.infer(
        "iris",
        [tensor("input-0", np.array(model["rows"]))],
        outputs=[triton.InferRequestedOutput("predict")],
        headers=served.headers,
    )
    assert one.as_numpy("probabilities") is None


@pytest.mark.parametrize("binary", [True, False])
def test_one_tensor_per_named_column(
    client: triton.InferenceServerClient, served: Served, binary: bool
) -> None:
    model = served.models["people"]
    metadata = client.get_model_metadata("people", headers=served.headers)
    assert [(i["name"], i["datatype"]) for i in metadata["inputs"]] == [
        ("age", "FP64"),
        ("town", "BYTES"),
        ("kids", "INT64"),
    ]
    age, town, kids = zip(*model["rows"], strict=True)
    inputs = [
        tensor("town", np.array(town, object).reshape(-1, 1), binary=binary),
        tensor("kids", np.array(kids, "i8"), binary=binary),
        tensor("age", np.array(age, "f8"), binary=binary),
    ]
    answer = client.infer("people", inputs, headers=dict(served.headers))
    assert answer.as_numpy("predict").tolist() == model["predict"]


def test_a_version_is_the_registered_models(client: triton.InferenceServerClient, served: Served) -> None:
    rows = np.ones((1, 3))
    answer = client.infer("matrix", [tensor("x", rows)], model_version="1", headers=served.headers)
    assert answer.get_response()["model_version"] == "1"
    assert client.is_model_ready("matrix", "1", headers=served.headers)
    assert not client.is_model_ready("matrix", "2", headers=served.headers)
    asked = lambda: client.infer("matrix", [tensor("x", rows)], model_version="2", headers=served.headers)  # noqa: E731
    assert refused(asked)[0] == "404"


def test_many_at_once_each_get_their_own_answer(served: Served) -> None:
    with triton.InferenceServerClient(served.address, concurrency=16) as client:
        rows = [np.full((1, 3), float(n)) for n in range(200)]
        alone = client.infer("matrix", [tensor("x", np.concatenate(rows))], headers=dict(served.headers))
        asked = [client.async_infer("matrix", [tensor("x", r)], headers=dict(served.headers)) for r in rows]
        answers = [one.get_result() for one in asked]
        together = np.concatenate([answer.as_numpy("predict") for answer in answers])
        np.testing.assert_allclose(together, alone.as_numpy("predict"), rtol=1e-9)
        ids = {answer.get_response()["parameters"]["prediction_id"] for answer in answers}
        assert len(ids) == 200


def test_what_does_not_fit_is_refused_in_the_protocols_words(
    client: triton.InferenceServerClient, served: Served
) -> None:
    headers = served.headers

    def ask(*inputs: triton.InferInput, **options: Any) -> tuple[str, str]:
        return refused(lambda: client.infer("tumour", list(inputs), headers=dict(headers), **options))

    assert ask(tensor("x", np.ones((1, 29))))[0] == "400"
    assert "30 columns" in ask(tensor("x", np.ones((1, 29))))[1]
    assert ask(tensor("x", np.ones(30)))[0] == "400"
    assert ask(tensor("x", np.array([["a"] * 30], object)))[0] == "400"
    assert "NaN" in ask(tensor("x", np.full((1, 30), np.nan)))[1]
    assert "NaN" in ask(tensor("x", np.full((1, 30), np.nan), binary=False))[1]
    assert "missing" in ask(tensor("mean radius", np.ones(1)), tensor("mean area", np.ones(1)))[1]
    assert ask(tensor("x", np.ones((1, 30))), outputs=[triton.InferRequestedOutput("y")])[0] == "400"
    assert ask(tensor("x", np.zeros((150_000, 30))))[0] == "413"
    assert refused(lambda: client.get_model_config("tumour", headers=headers))[0] == "501"
    assert refused(lambda: client.load_model("tumour", headers=headers))[0] == "501"


def test_keys_open_their_own_project_and_nothing_else(
    client: triton.InferenceServerClient, served: Served
) -> None:
    row = [tensor("x", np.ones((1, 3)))]
    stranger = {"Authorization": f"Bearer {served.server.key(served.server.project(), 'owner')}"}
    assert refused(lambda: client.infer("matrix", row))[0] == "401"
    assert (
        refused(lambda: client.infer("matrix", row, headers={"Authorization": "Bearer no.thing"}))[0] == "401"
    )
    assert refused(lambda: client.infer("matrix", row, headers=dict(stranger)))[0] == "404"
    assert refused(lambda: client.get_model_metadata("matrix", headers=stranger))[0] == "404"
    assert client.get_model_repository_index(headers=stranger) == []
    key_id, _, secret = served.key.partition(".")
    client.register_plugin(BasicAuth(key_id, secret))
    assert client.infer("matrix", row).as_numpy("predict").shape == (1,)
