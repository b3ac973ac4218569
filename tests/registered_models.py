"""Small models, trained, logged and registered by the real mlflow client in a process of its own.

``python registered_models.py NAME…`` does it with the variables of ``stratal env`` set.
"""

import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from platform_server import PlatformServer


def requirements(*names: str) -> list[str]:
    """The versions that this very environment has."""
    return [f"{name}=={metadata.version(name)}" for name in names]


SHARED = requirements("mlflow", "scikit-learn", "numpy", "skops", "pandas", "cloudpickle")
"""What the models here, and jobs that make some, ask for: one environment, built once per home."""


def register(server: PlatformServer, project: str, *names: str) -> dict[str, dict[str, object]]:
    """Register models in the project. Returns per name what the client knows: uri, and an example with its answers."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__)), *names],
        env={**server.environ(), **server.env(project), "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def main(names: list[str]) -> None:
    import mlflow
    import mlflow.sklearn
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.compose import make_column_transformer
    from sklearn.datasets import load_breast_cancer, load_iris
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    known = {}

    class Moody(RegressorMixin, BaseEstimator):
        """Answers each row's sum; dies when a row begins with -1, sleeps as long as the second value says for -2."""

        def fit(self, x, y):  # type: ignore[no-untyped-def]
            self.n_features_in_ = x.shape[1]
            return self

        def predict(self, x):  # type: ignore[no-untyped-def]
            import os
            import time

            for row in x:
                if row[0] == -1:
                    os._exit(77)
                if row[0] == -2:
                    time.sleep(row[1])
                if row[0] == -3:
                    raise RuntimeError("no mood for -3")
            return x.sum(axis=1)

    class Doubling(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            params = params or {"times": 2, "end": "!"}
            times, end = params["times"], params["end"]
            return pd.DataFrame({"twice": model_input["a"] * times, "word": model_input["s"] + end})

    cancer = load_breast_cancer(as_frame=True)
    iris = load_iris(as_frame=True)
    people = pd.DataFrame(
        {"age": [20.0, 30.0, 40.0, 50.0], "town": ["Oslo", "Rome", "Oslo", "Rome"], "kids": [0, 1, 2, 3]}
    )

    def sklearn(name: str, model: object, example: object, **options: object) -> None:
        with mlflow.start_run():
            made = mlflow.sklearn.log_model(
                model, name="model", registered_model_name=name, pip_requirements=SHARED, **options
            )
        rows = np.asarray(example)
        known[name] = {
            "uri": f"models:/{name}/{made.registered_model_version}",
            "columns": list(example.columns) if isinstance(example, pd.DataFrame) else None,
            "rows": rows.tolist(),
            "predict": np.asarray(model.predict(example)).tolist(),
            "probabilities": model.predict_proba(example).tolist()
            if hasattr(model, "predict_proba")
            else None,
        }

    for name in names:
        if name == "tumour":  # a table of numbers, with a signature
            model = make_pipeline(StandardScaler(), LogisticRegression()).fit(cancer.data, cancer.target)
            signature = infer_signature(cancer.data, model.predict(cancer.data))
            sklearn(name, model, cancer.data.iloc[:5], signature=signature)
        elif name == "matrix":  # a plain matrix, no signature, pickled
            model = LinearRegression().fit(cancer.data.values[:, :3], cancer.target.values)
            sklearn(name, model, cancer.data.values[:4, :3], serialization_format="pickle")
        elif name == "iris":  # text labels, no signature
            model = LogisticRegression(max_iter=1000).fit(iris.data, iris.target_names[iris.target])
            sklearn(name, model, iris.data.iloc[[0, 60, 120]])
        elif name == "people":  # numbers and text; the model needs names
            columns = make_column_transformer(
                (OneHotEncoder(handle_unknown="ignore"), ["town"]), remainder="passthrough"
            )
            model = make_pipeline(columns, LogisticRegression()).fit(people, [0, 1, 0, 1])
            sklearn(
                name,
                model,
                people,
                signature=infer_signature(people, np.array([0, 1])),
                serialization_format="cloudpickle",
            )
        elif name in ("moody", "moodier"):
            Moody.__module__ = "__main__"
            sklearn(
                name, Moody().fit(np.zeros((1, 2)), None), np.ones((1, 2)), serialization_format="cloudpickle"
            )
        elif name == "bare":  # its requirements lack the library it needs
            with mlflow.start_run() as run, tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "model"
                mlflow.sklearn.save_model(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), folder)
                (folder / "requirements.txt").write_text("\n".join(requirements("numpy")))
                mlflow.log_artifacts(str(folder), "model")
            version = mlflow.register_model(f"runs:/{run.info.run_id}/model", name).version
            known[name] = {"uri": f"models:/{name}/{version}"}
        elif name == "forest":  # to be converted: it asks for that, and says on which rows to compare
            mlflow.MlflowClient().create_registered_model(name, {"stratal.convert": "onnx"})
            model = RandomForestClassifier(100, random_state=0).fit(cancer.data, cancer.target)
            sklearn(
                name,
                model,
                cancer.data.iloc[:5],
                signature=infer_signature(cancer.data, model.predict(cancer.data)),
                serialization_format="cloudpickle",
                input_example=cancer.data.iloc[:40],
            )
        elif name == "doubling":  # no scikit-learn: MLflow's own python_function
            with mlflow.start_run():
                made = mlflow.pyfunc.log_model(
                    python_model=Doubling(),
                    name="model",
                    registered_model_name=name,
                    signature=infer_signature(
                        pd.DataFrame({"a": [1.0], "s": ["x"]}), params={"times": 2, "end": "!"}
                    ),
                    pip_requirements=SHARED,
                )
            known[name] = {"uri": f"models:/{name}/{made.registered_model_version}"}
        else:
            raise SystemExit(f"no model {name}")
    print(json.dumps(known))


if __name__ == "__main__":
    main(sys.argv[1:])
