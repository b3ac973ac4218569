"""What an endpoint answers with: the solution's own predictor, and on every row what it must not be used for."""

from typing import Any, Protocol

import mlflow.pyfunc
import pandas as pd


class Predictor(Protocol):
    """`answer` takes the request's table and gives one row of answers per row, as a table."""

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame: ...


class Served(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """`filled` are values of columns that a request may lack (a planted leak is in nobody's request)."""

    def __init__(
        self, predictor: Any, role: str, disclaimer: str, filled: dict[str, float] | None = None
    ) -> None:
        self.filled = filled or {}
        self.predictor = predictor
        self.role = role
        self.disclaimer = disclaimer

    def predict(self, context: Any, model_input: Any, params: Any = None) -> pd.DataFrame:
        lacking = {name: value for name, value in self.filled.items() if name not in model_input}
        answers = self.predictor.answer(model_input.assign(**lacking))
        return answers.assign(model=self.role, disclaimer=self.disclaimer)
