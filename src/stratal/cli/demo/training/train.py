"""Train a breast-cancer classifier on a table and register it.

Plain scikit-learn, MLflow and PyIceberg, configured by nothing but environment variables.
Usage: python train.py NAMESPACE.TABLE MODEL_NAME
"""

import math
import sys

import mlflow
import mlflow.sklearn
import numpy as np
from mlflow.models import infer_signature
from pyiceberg.catalog import load_catalog
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS, REPEATS, HELD_OUT, SEED = 5, 4, 0.2, 7


def auc_interval(scores: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a repeated cross-validation's mean.

    Folds share training rows, so the plain standard error is too small; this uses the variance
    correction of Nadeau and Bengio, "Inference for the Generalization Error" (Machine Learning 52, 2003).
    """
    count = len(scores)
    spread = math.sqrt((1 / count + 1 / (FOLDS - 1)) * scores.var(ddof=1))
    half = stats.t.ppf((1 + confidence) / 2, count - 1) * spread
    return max(0.0, scores.mean() - half), min(1.0, scores.mean() + half)


def main(table_name: str, model_name: str) -> None:
    table = load_catalog("default").load_table(table_name)
    frame = table.scan().to_pandas()
    labels = frame.pop("malignant").to_numpy()
    print(f"read {len(frame)} rows, {frame.shape[1]} features from {table_name}", flush=True)

    train, held_out, train_labels, held_out_labels = train_test_split(
        frame, labels, test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=2000))
    folds = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=SEED)
    scores = cross_val_score(model, train, train_labels, scoring="roc_auc", cv=folds)
    low, high = auc_interval(scores)
    print(f"cross-validated AUC {scores.mean():.4f} [{low:.4f}, {high:.4f}]", flush=True)

    model.fit(train, train_labels)
    held_out_auc = roc_auc_score(held_out_labels, model.predict_proba(held_out)[:, 1])
    print(f"held-out AUC {held_out_auc:.4f}", flush=True)

    mlflow.set_experiment("breast-cancer")
    with mlflow.start_run():
        mlflow.log_params(
            {"model": "logistic regression", "C": 0.5, "folds": FOLDS, "repeats": REPEATS, "seed": SEED}
        )
        for step, score in enumerate(scores):
            mlflow.log_metric("fold_auc", score, step=step)
        mlflow.log_metrics(
            {"cv_auc": scores.mean(), "cv_auc_low": low, "cv_auc_high": high, "held_out_auc": held_out_auc}
        )
        mlflow.sklearn.log_model(
            model,
            name="model",
            signature=infer_signature(train, model.predict(train)),
            input_example=train.iloc[:50],
            registered_model_name=model_name,
        )
    print(f"registered {model_name}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
