# /// script
# dependencies = ["mlflow-skinny", "pandas", "pyarrow", "scikit-learn", "skops"]
# ///
"""From files that arrive to an endpoint that answers: how much CO2 will the air hold in four weeks?

    ingest → clean → check → features → train → register → deploy, and a report

Each step is done again only when something it depends on has changed. docs/tutorial.md tells the story.
"""

import stratal

WEEKS_AHEAD = 4
COLUMNS = ["last", "month_mean", "year_growth", "season"]

known = stratal.features.view("co2", "ml.features", on="station", known_at="known", features=COLUMNS)
"""What is known of a station at a moment: for training as of then, and served as of now."""


@stratal.step(cache=False)
def arrived(prefix: str) -> list:
    """Which files there are, at which version: the one thing that is looked up each time."""
    return stratal.objects_under(prefix)


@stratal.step
def ingest(files: list) -> stratal.Table:
    """The rows of files that the table does not have yet; rows that make no sense go to raw.co2_bad."""
    return stratal.ingest_objects(files, "raw.co2", columns={"week": "date", "co2": "float"}).table


clean = stratal.sql_step(
    """
    select 'mauna-loa' as station, week, avg(co2) as co2
    from {{ ref('raw.co2') }} where co2 is not null group by week order by week
    """,
    into="clean.co2",
    name="clean",
    checks=[
        stratal.not_null("week"),
        stratal.unique("week"),
        stratal.between("co2", 280, 450),
        stratal.drift("co2", 0.25).warn(),
    ],
)

seasons = stratal.sql_step(
    "select m as month, cos(2 * pi() * (m - 5) / 12) as season from range(1, 13) r(m)",
    into="ref.seasons",
    name="seasons",
)

features = stratal.sql_step(
    """
    select station, week as known, co2 as last, s.season,
        avg(co2) over past_month as month_mean,
        coalesce(co2 - first_value(co2) over past_year, 0) as year_growth
    from {{ ref('clean.co2') }} join {{ ref('ref.seasons') }} s on s.month = month(week)
    window past_month as (order by week range between interval 28 days preceding and current row),
           past_year as (order by week range between interval 371 days preceding and current row)
    """,
    into="ml.features",
    name="features",
)

labels = stratal.sql_step(
    """
    select present.station, present.week, later.co2 as co2_later
    from {{ ref('clean.co2') }} present join {{ ref('clean.co2') }} later
      on later.week = present.week + to_days(7 * {{ weeks }})
    """,
    into="ml.labels",
    name="labels",
)


@stratal.step
def training(labelled: stratal.Table, featured: stratal.Table) -> stratal.Table:
    """Each label with what was known at its moment, and nothing that came to be known later."""
    return known.join(labelled, at="week", features=featured, into="ml.training")


@stratal.step(replay=False)
def publish(featured: stratal.Table) -> int:
    """Serve the newest features of each station to whoever asks the endpoint."""
    return known.publish(featured)["keys"]


@stratal.step
def train(rows: stratal.Table) -> stratal.Model:
    """Learn from all but the last tenth, measure on that, register."""
    import mlflow
    import mlflow.sklearn
    from sklearn.linear_model import Ridge
    from sklearn.metrics import mean_absolute_error
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame = rows.pandas().sort_values("week")
    cut = int(len(frame) * 0.9)
    before, after = frame[:cut], frame[cut:]
    model = make_pipeline(StandardScaler(), Ridge(alpha=0.1)).fit(before[COLUMNS], before["co2_later"])
    error = mean_absolute_error(after["co2_later"], model.predict(after[COLUMNS]))
    naive = mean_absolute_error(after["co2_later"], after["last"])
    mlflow.set_experiment("co2")
    with mlflow.start_run():
        mlflow.log_params({"weeks_ahead": WEEKS_AHEAD, "rows": len(frame)})
        mlflow.log_metrics({"mae": error, "mae_naive": naive})
        made = mlflow.sklearn.log_model(
            model,
            name="model",
            input_example=after[COLUMNS].head(2),
            registered_model_name="co2",
            pip_requirements=["scikit-learn", "skops"],
        )
    print(f"{len(frame)} weeks: off by {error:.3f} ppm on average; that nothing changes: {naive:.3f}")
    if error > naive:
        raise ValueError("The model is no better than saying that nothing changes: it is not deployed.")
    return stratal.model("co2", made.registered_model_version)


@stratal.step(replay=False)
def deploy(model: stratal.Model, endpoint: str) -> str:
    """The endpoint answers with this version from now on; a replay leaves it alone."""
    return model.deploy(endpoint)


report = stratal.report_step(
    """
    # CO₂ over Mauna Loa

    Weekly means of air samples, in parts per million.

    ```sql line x=week y=co2 title="Every week"
    select week, co2 from {{ ref('clean.co2') }} order by week
    ```

    ```sql bar x=decade y=growth title="Growth in a year, by decade"
    select (year(known) // 10 * 10) || 's' as decade, round(avg(year_growth), 2) as growth
    from {{ ref('ml.features') }} group by decade order by decade
    ```

    ```sql value
    select count(*) as weeks, max(week) as until, max(co2) as highest from {{ ref('clean.co2') }}
    ```
    """,
    title="CO₂ over Mauna Loa",
)


@stratal.pipeline
def co2(prefix: str = "s3://landing/co2/", endpoint: str = "co2"):
    clean(ingest(arrived(prefix)))
    seasons()
    featured = features()
    report()
    publish(featured)
    model = train(training(labels(weeks=WEEKS_AHEAD), featured))
    return {"model": model, "address": deploy(model, endpoint)}
