"""The variables that point people's own clients at this instance: what `stratal env` prints and workloads get."""

from stratal.identity.keys import Credential

REGION = "us-east-1"


_GIT_HELPER = (
    "!f() { test $1 = get && echo username=$(echo $STRATAL_API_KEY | cut -d. -f1) "
    "&& echo password=$(echo $STRATAL_API_KEY | cut -d. -f2-); }; f"
)
"""git's credential helper, a line of shell: the key is read when it is used, so a newer one is found.

It has no quotes and no braces behind a dollar, so that shells and readers of dotenv files can agree on it.
"""


def library_env(url: str) -> dict[str, str]:
    """The part of `client_env` that is the same for everybody, and right where nobody is asked for, as in replicas.

    Libraries read it when they are imported: workloads with the same can share what has them imported.
    """
    return {
        "MLFLOW_DISABLE_TELEMETRY": "true",  # what is tracked here is nobody else's business
        "HF_ENDPOINT": f"{url}/hub",
        "HF_HUB_DISABLE_XET": "1",  # files go by plain HTTP here; the client's Xet storage is another service
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def client_env(
    url: str, credential: Credential, project: str, *, first_git_setting: int = 0
) -> dict[str, str]:
    """One flat mapping of strings for boto3, awscli, pyarrow, pyiceberg, mlflow, git, huggingface_hub, our CLI and SDK.

    S3 clients sign with the key's id and secret; the others send ``<id>.<secret>`` as bearer or basic.
    `first_git_setting` is how many settings git is given by variables already: ours are put behind them.
    """
    return {
        "STRATAL_URL": url,
        "STRATAL_API_KEY": credential.token,
        "STRATAL_PROJECT": project,
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": credential.id,
        "AWS_SECRET_ACCESS_KEY": credential.secret,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ALLOW_HTTP": "true",
        "MLFLOW_TRACKING_URI": url,
        "MLFLOW_TRACKING_USERNAME": credential.id,
        "MLFLOW_TRACKING_PASSWORD": credential.secret,
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": credential.token,
        "HF_TOKEN": credential.token,
        **library_env(url),
        "PYICEBERG_CATALOG__DEFAULT__TYPE": "rest",
        "PYICEBERG_CATALOG__DEFAULT__URI": f"{url}/iceberg",
        "PYICEBERG_CATALOG__DEFAULT__TOKEN": credential.token,
        "PYICEBERG_CATALOG__DEFAULT__WAREHOUSE": project,
        "PYICEBERG_CATALOG__DEFAULT__S3__ENDPOINT": url,
        "PYICEBERG_CATALOG__DEFAULT__S3__ACCESS_KEY_ID": credential.id,
        "PYICEBERG_CATALOG__DEFAULT__S3__SECRET_ACCESS_KEY": credential.secret,
        "PYICEBERG_CATALOG__DEFAULT__S3__REGION": REGION,
        "GIT_CONFIG_COUNT": str(first_git_setting + 2),
        # For this address alone: no other helper is asked, and none is told the secret to keep.
        f"GIT_CONFIG_KEY_{first_git_setting}": f"credential.{url}.helper",
        f"GIT_CONFIG_VALUE_{first_git_setting}": "",
        f"GIT_CONFIG_KEY_{first_git_setting + 1}": f"credential.{url}.helper",
        f"GIT_CONFIG_VALUE_{first_git_setting + 1}": _GIT_HELPER,
    }
