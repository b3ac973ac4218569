"""``stratal``: the root of the command line.

`COMMANDS` names each command's module and one-line help, so that ``stratal --help`` imports none of
them. Every command's mistake ends as one clear message on stderr and an exit code of `EXIT_CODES`.
"""

import importlib
import sys
from typing import Any, NoReturn

import click

from stratal import __version__
from stratal.cli.output import print_error
from stratal.kernel.errors import StratalError

EXIT_CODES = """
\b
Exit codes:
  0  done
  1  the platform refused or failed (the message says why)
  2  the command line was wrong
  3  the platform is not running or could not be reached
  4  not signed in: no key, or one that is wrong, expired or revoked
  5  not allowed
  6  no such thing
  130 interrupted
`stratal run` ends with the job's own exit code, 125 when it has none.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("stratal.cli.life", "Start the platform on this machine."),
    "down": ("stratal.cli.life", "Stop server, keeper and workloads."),
    "status": ("stratal.cli.life", "Show what is running, where, and how much memory it holds."),
    "doctor": ("stratal.cli.doctor", "Check the installation and say what is and is not enforced here."),
    "env": ("stratal.cli.env", "Print the variables that point your clients at this platform."),
    "login-link": ("stratal.cli.env", "Print a one-time link that signs you in to the console."),
    "demo": ("stratal.cli.demo", "From real data to a prediction that can be explained."),
    "solutions": (
        "stratal.cli.solutions",
        "Run ready solutions: from data to an endpoint, held against gates.",
    ),
    "why": ("stratal.cli.why", "Explain a prediction: every link back to data and code, hashed again."),
    "impact": ("stratal.cli.impact", "Show everything downstream of a table, a snapshot or an object."),
    "replay": (
        "stratal.cli.replay",
        "Do earlier work again from its code, data and environment, and compare.",
    ),
    "whoami": ("stratal.cli.identity", "Show whose key this is and where it acts."),
    "login": ("stratal.cli.account", "Sign this machine in at an address, by a code."),
    "context": ("stratal.cli.account", "The places this machine is signed in at, and which one is used."),
    "account": ("stratal.cli.account", "Your own account: password and one-time codes."),
    "members": ("stratal.cli.people", "Who belongs to the project: invite, list, change, remove."),
    "sessions": ("stratal.cli.people", "Browsers in which you are signed in: list and revoke them."),
    "projects": ("stratal.cli.identity", "Create and list projects."),
    "keys": ("stratal.cli.identity", "Create, list and revoke keys."),
    "audit": ("stratal.cli.audit", "Show who changed what and who was refused what; verify the record."),
    "run": ("stratal.cli.run", "Run a command as a job, with this folder's code."),
    "repo": ("stratal.cli.repo", "Git repositories: create, list, show, protect, remove."),
    "merge": ("stratal.cli.merge", "Merge requests: ask that a branch go into another, merge it."),
    "jobs": ("stratal.cli.jobs", "List the project's jobs."),
    "job": ("stratal.cli.jobs", "Look at one job or array, read its log, stop it."),
    "sweep": ("stratal.cli.sweeps", "Search the parameters with which a script does best."),
    "pipeline": ("stratal.cli.pipelines", "Run pipelines and look at their runs, step by step."),
    "transform": ("stratal.cli.transform", "Run a folder of SQL models, with their tests, as a pipeline."),
    "features": ("stratal.cli.features", "Features that steps have published, looked up by key."),
    "gpus": ("stratal.cli.gpus", "List the GPUs, what they are doing, and which jobs hold them."),
    "pool": ("stratal.cli.pool", "The machines that jobs run on with `stratal up --engine ray`."),
    "quota": ("stratal.cli.quota", "What a project's jobs may hold at the same time."),
    "comment": ("stratal.cli.talk", "Comments on runs, models, tables, endpoints, jobs …"),
    "activity": ("stratal.cli.talk", "Show what happened in the project, newest first."),
    "inbox": ("stratal.cli.talk", "Show what you were told: mentions, failed jobs, budgets."),
    "webhook": ("stratal.cli.talk", "Have an address told of what happens in the project."),
    "runs": ("stratal.cli.runs", "List and show runs: what was tried, and how it went."),
    "models": ("stratal.cli.runs", "List and show registered models and their versions."),
    "deploy": ("stratal.cli.deploy", "Deploy a model version to an endpoint that answers requests."),
    "endpoints": ("stratal.cli.endpoints", "List the project's endpoints."),
    "endpoint": ("stratal.cli.endpoints", "Look at endpoints, share out requests, roll back, stop, remove."),
    "bench": ("stratal.cli.bench", "Measure this machine's platform."),
    "function": (
        "stratal.cli.functions",
        "Deploy Python functions that answer requests, call them, look at them.",
    ),
    "app": (
        "stratal.cli.apps",
        "Deploy ASGI apps (FastAPI, Starlette …) at host names of their own.",
    ),
    "notebook": ("stratal.cli.notebooks", "Run notebooks as jobs, with parameters; their output is kept."),
    "workspace": (
        "stratal.cli.workspaces",
        "Notebooks that people edit together: create, open, stop, restore saves.",
    ),
    "buckets": ("stratal.cli.objects", "List, create and remove buckets."),
    "objects": ("stratal.cli.objects", "List, get, put and remove objects."),
    "tables": ("stratal.cli.tables", "List, show, import, verify and drop tables."),
    "cost": ("stratal.cli.cost", "Show what was spent, by project, user, job, endpoint, function or app."),
    "prices": ("stratal.cli.cost", "List and set what things cost, from which day on."),
    "search": ("stratal.cli.search", "Find things of the project by words of their names."),
    "finetune": ("stratal.cli.finetune", "Fine-tune a sentence encoder on rows of your own."),
    "index": (
        "stratal.cli.index",
        "Documents searched by meaning and words, and answered from with citations.",
    ),
    "report": ("stratal.cli.report", "Reports: Markdown with live charts, tables and lineage."),
    "share": ("stratal.cli.share", "Let other projects read single things of this one."),
    "budget": ("stratal.cli.budget", "What a project may spend in a month."),
    "sql": ("stratal.cli.sql", "Run SQL over the project's tables."),
}


class _Lazy(click.Group):
    """A group whose commands are imported when called; their short help is known beforehand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry[0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " See: stratal --help"
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EXIT_CODES,
    invoke_without_command=False,
)
@click.version_option(__version__, "-V", "--version", prog_name="stratal")
def cli() -> None:
    """Stratal: one system that stores the data, runs the work and answers the requests.

    \b
    Start here:
      stratal up --detach          start the platform
      eval "$(stratal env)"        point boto3, pyiceberg, mlflow … at it
      stratal demo                 from real data to a prediction that can be explained
    """


def main() -> NoReturn:
    """Run the command line; never shows a traceback for a user's mistake."""
    try:
        code = cli(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StratalError as error:
        print_error(error.message, error.hint)
        sys.exit(_code_of_status(error.status))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        from stratal.sdk import ApiError

        if isinstance(error, ApiError):
            print_error(error.message, error.hint, error.request_id)
            sys.exit(_code_of_status(error.status))
        if isinstance(error, OSError) and error.filename is not None:
            print_error(f"{error.filename}: {error.strerror}.", "")
            sys.exit(1)
        raise


def _code_of_status(status: int) -> int:
    return {0: 3, 401: 4, 403: 5, 404: 6}.get(status, 1)


if __name__ == "__main__":
    main()
