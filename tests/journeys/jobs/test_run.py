"""``stratal run`` as its users run it: code goes up, output comes back, the exit code is the job's."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer, wait_until

pytestmark = pytest.mark.filterwarnings("error")


class Shell:
    """A folder with code, and `stratal` called in it."""

    def __init__(self, server: PlatformServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.project = server.project()

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def __call__(self, *words: str, cwd: str = ".", **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "stratal.cli.main", *words],
            env=self.server.environ(STRATAL_PROJECT=self.project, **env),
            cwd=self.folder / cwd,
            capture_output=True,
            text=True,
            timeout=180,
        )

    def json(self, *words: str) -> dict[str, Any]:
        done = self(*words, "--json")
        assert done.stdout.count("\n") == 1, done.stdout + done.stderr
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer

    def run(self, code: str, *options: str) -> "subprocess.CompletedProcess[str]":
        return self("run", *options, "--", "python", "-c", code)


@pytest.fixture
def shell(server: PlatformServer, tmp_path: Path) -> Shell:
    return Shell(server, tmp_path)


def test_output_and_exit_code_come_back(shell: Shell) -> None:
    shell.write(
        "train.py", "import sys\nprint('out ü')\nprint('err', file=sys.stderr)\nsys.exit(int(sys.argv[1]))\n"
    )
    done = shell("run", "--name", "first", "--", "python", "train.py", "42")
    assert (done.returncode, done.stdout) == (42, "out ü\nerr\n")
    assert "no git repository" in done.stderr
    assert shell("run", "python", "train.py", "0").returncode == 0
    listed = shell.json("jobs")["jobs"]
    assert [(job["name"], job["state"], job["exit_code"]) for job in listed] == [
        ("train.py", "succeeded", 0),
        ("first", "failed", 42),
    ]
    shown = shell.json("job", "show", str(listed[1]["id"]))
    assert shown["usage"]["wall_seconds"] > 0
    assert shown["usage"]["peak_memory_bytes"] > 1_000_000
    assert shell("job", "logs", str(shown["id"])).stdout == "out ü\nerr\n"
    assert "first" in shell("jobs").stdout


def test_json_is_one_object_and_the_exit_code_still_the_jobs(shell: Shell) -> None:
    done = shell("run", "--json", "--", "python", "-c", "print('x'); raise SystemExit(3)")
    job = json.loads(done.stdout)
    assert (done.returncode, job["state"], job["exit_code"], done.stdout.count("\n")) == (3, "failed", 3, 1)
    assert "x\n" in done.stderr


def test_git_is_recorded_and_the_job_starts_in_the_same_folder(shell: Shell) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q", "-b", "main"], cwd=shell.folder, check=True)
    shell.write(".gitignore", "*.log\n")
    shell.write(
        "sub/t.py", "import pathlib, os\nprint(sorted(p.name for p in pathlib.Path('..').iterdir()))\n"
    )
    subprocess.run([*git, "add", "-A"], cwd=shell.folder, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], cwd=shell.folder, check=True)
    shell.write("notes.txt", "untracked")
    shell.write("a.log", "ignored")
    shell.write("sub/t.py", (shell.folder / "sub/t.py").read_text() + "print('changed')\n")
    done = shell("run", "--", "python", "t.py", cwd="sub")
    assert (done.returncode, done.stdout) == (0, "['.gitignore', 'notes.txt', 'sub']\nchanged\n")
    job = shell.json("job", "show", str(shell.json("jobs")["jobs"][0]["id"]))
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=shell.folder, text=True).strip()
    source = job["source"]
    assert (source["commit"], source["branch"], source["dirty"], source["untracked"]) == (
        head,
        "main",
        True,
        ["notes.txt"],
    )
    with shell.server.http() as http:
        place = f"/api/v1/projects/{shell.project}"
        diff = http.get(f"{place}/jobs/{job['id']}/diff").text
        assert "+print('changed')" in diff
        files = {f["path"] for f in http.get(f"{place}/code/snapshots/{job['snapshot']}").json()["files"]}
        assert files == {".gitignore", "notes.txt", "sub/t.py"}
        lock = http.get(f"{place}/environments/{job['environment']}/lock").text
        assert lock.startswith("# python 3")


def test_the_job_has_the_platforms_variables_and_a_key_of_its_own(shell: Shell) -> None:
    code = (
        "import json, os, urllib.request as u\n"
        "r = u.Request(os.environ['STRATAL_URL'] + '/api/v1/whoami',"
        " headers={'Authorization': 'Bearer ' + os.environ['STRATAL_API_KEY']})\n"
        "print(u.urlopen(r).read().decode()); print(json.dumps(dict(os.environ)))"
    )
    done = shell.run(code, "--env", "MINE=a=b", "--env", "PASSED")
    assert done.returncode == 2, "PASSED is not set here"
    done = shell("run", "--env", "MINE=a=b", "--env", "PASSED", "--", "python", "-c", code, PASSED="on")
    who, env = (json.loads(line) for line in done.stdout.splitlines())
    job = shell.json("jobs")["jobs"][0]
    assert (who["workload"], who["project"], who["role"]) == (f"job:{job['id']}", shell.project, "editor")
    assert (env["MINE"], env["PASSED"], env["STRATAL_JOB_ID"]) == ("a=b", "on", str(job["id"]))
    assert set(shell.server.env(shell.project)) <= set(env)
    ended = httpx.get(
        f"{shell.server.url}/api/v1/whoami", headers={"Authorization": f"Bearer {env['STRATAL_API_KEY']}"}
    )
    assert ended.status_code == 401


def test_a_sandboxed_job_sees_neither_home_nor_network(shell: Shell) -> None:
    home = shell.server.home
    code = (
        f"import os, socket\nprint(os.path.exists({str(home / 'db')!r}), os.path.exists({str(home / 'keys')!r}))\n"
        "try: socket.create_connection(('192.0.2.1', 80), 3); print('reached')\n"
        "except OSError as e: print('unreachable')\n"
    )
    done = shell.run(code)
    job = shell.json("job", "show", str(shell.json("jobs")["jobs"][0]["id"]))
    if job["isolation"]["state"] == "not isolated":
        assert "the machine's files" in job["isolation"]["other_inputs"]
        pytest.skip("no sandbox on this machine")
    assert done.stdout.splitlines()[0] == "False False"
    assert done.stdout.splitlines()[1] == "unreachable"
    assert job["isolation"]["complete"]
    shell.run("print()", "--network", "open")
    opened = shell.json("job", "show", str(shell.json("jobs")["jobs"][0]["id"]))
    assert not opened["isolation"]["complete"]
    assert any("network" in other for other in opened["isolation"]["other_inputs"])


def test_packages_come_from_the_operators_sources_and_are_reused(shell: Shell) -> None:
    shell.write("more.txt", "iniconfig\n")
    shell.write("requirements.txt", "# ours\n-r more.txt\n")
    code = "import iniconfig, packaging; print('ok')"
    words = ("--requirements", "requirements.txt", "--with", "packaging>=23")
    first = shell.run(code, *words)
    assert first.returncode == 0, first.stdout
    assert "Building environment" in first.stdout
    again = shell.run(code, *words)
    assert again.stdout == "ok\n"
    one, two = (shell.json("job", "show", str(job["id"])) for job in shell.json("jobs")["jobs"])
    assert one["environment"] == two["environment"]


def test_an_environment_that_cannot_be_is_a_failed_job_that_says_why(shell: Shell) -> None:
    done = shell.run("print()", "--with", "six==99")
    assert done.returncode == 125
    assert "six==99" in done.stdout
    job = shell.json("jobs")["jobs"][0]
    assert (job["state"], job["exit_code"]) == ("failed", None)
    assert "six==99" in job["reason"]


def test_limits_are_held(shell: Shell) -> None:
    slow = shell.run("import time; time.sleep(60)", "--timeout", "1s")
    assert slow.returncode not in (0, 125)
    assert shell.json("jobs")["jobs"][0]["state"] == "failed"
    greedy = shell.run(
        "x = bytearray(400 << 20); print(len(x)); import time; time.sleep(5)", "--memory", "128MiB"
    )
    assert greedy.returncode != 0
    assert "memory" in shell.json("jobs")["jobs"][0]["reason"]
    never = shell.run("print()", "--cpus", "4096")
    assert (never.returncode, "could never run" in never.stderr) == (1, True)
    assert "Traceback" not in never.stderr


def test_detach_follow_and_stop(shell: Shell) -> None:
    shell.write("t.py", "import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    detached = shell("run", "--detach", "--", "python", "t.py")
    job_id = detached.stdout.strip()
    assert (detached.returncode, job_id.isdigit()) == (0, True)
    wait_until(lambda: shell("job", "logs", job_id).stdout == "begun\n")
    assert shell.json("jobs", "--state", "running")["jobs"][0]["id"] == int(job_id)
    stopped = shell.json("job", "stop", job_id)
    assert (stopped["state"], stopped["exit_code"]) == ("stopped", 143)
    assert shell("job", "logs", "-f", job_id).stdout.startswith("begun\n")
    assert shell.json("job", "stop", job_id)["state"] == "stopped"


def test_ctrl_c_leaves_the_job_running_and_says_so(shell: Shell) -> None:
    shell.write("t.py", "import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    following = subprocess.Popen(
        [sys.executable, "-m", "stratal.cli.main", "run", "--", "python", "t.py"],
        env=shell.server.environ(STRATAL_PROJECT=shell.project),
        cwd=shell.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs, and so tests that run in one, ignore the signal unless told otherwise
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert following.stdout is not None
    assert following.stdout.readline() == "begun\n"
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=60)
    job = shell.json("jobs")["jobs"][0]
    assert (following.returncode, job["state"]) == (130, "running")
    assert f"stratal job stop {job['id']}" in said
    assert "Traceback" not in said
    shell("job", "stop", str(job["id"]))


def test_a_program_that_does_not_exist(shell: Shell) -> None:
    done = shell("run", "--", "no-such-program-here")
    assert done.returncode == 127
    assert "no-such-program-here" in done.stdout


def test_mistakes_get_one_clear_message(shell: Shell) -> None:
    for words, code in (
        (("run",), 2),
        (("run", "--memory", "lots", "--", "x"), 2),
        (("run", "--name", "../x", "--", "x"), 1),
        (("run", "--env", "A-B=1", "--", "x"), 2),
        (("run", "--with", "-r /etc/passwd", "--", "x"), 1),
        (("run", "--requirements", "absent.txt", "--", "x"), 2),
        (("job", "show", "999999"), 6),
        (("job", "logs", "999999"), 6),
        (("job", "logs", "-f", "999999"), 6),
        (("job", "stop", "999999"), 6),
        (("job", "show", "x"), 2),
        (("jobs", "--state", "asleep"), 2),
    ):
        done = shell(*words)
        assert (words, done.returncode) == (words, code), done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()
    assert shell.json("jobs") == {"jobs": []}


def test_other_projects_see_nothing(shell: Shell, server: PlatformServer) -> None:
    shell.run("print('mine')")
    job = shell.json("jobs")["jobs"][0]
    shown = shell.json("job", "show", str(job["id"]))
    elsewhere = server.project()
    stranger = server.key(elsewhere)
    place = f"/api/v1/projects/{shell.project}/jobs"
    with server.http(stranger) as http:
        for answer in (
            http.get(place),
            http.get(f"{place}/{job['id']}"),
            http.get(f"{place}/{job['id']}/logs"),
            http.post(f"{place}/{job['id']}/stop"),
            http.post(place, json={"argv": ["x"]}),
            http.post(f"/api/v1/projects/{shell.project}/code/snapshots", json={"files": []}),
            http.get(f"/api/v1/projects/{shell.project}/environments/{shown['environment']}/lock"),
            http.get(f"/api/v1/projects/{elsewhere}/environments/{shown['environment']}/lock"),
            http.get(f"/api/v1/projects/{shell.project}/code/snapshots/{shown['snapshot']}"),
        ):
            assert answer.status_code == 404
    viewer = server.key(shell.project, "viewer")
    with server.http(viewer) as http:
        assert http.get(f"{place}/{job['id']}/logs").text == "mine\n"
        assert http.post(place, json={"argv": ["x"]}).status_code == 403
        assert http.post(f"{place}/{job['id']}/stop").status_code == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"argv": ["a\0b"]}, 400),
        ({"argv": []}, 400),
        ({"argv": "python"}, 400),
        ({"argv": ["x"], "surprise": 1}, 400),
        ({"argv": ["x"], "cpus": "many"}, 400),
        ({"argv": ["x"], "cpus": 1e9}, 400),
        ({"argv": ["x"], "memory_bytes": 1}, 400),
        ({"argv": ["x"], "timeout_seconds": -1}, 400),
        ({"argv": ["x"], "network": "moon"}, 400),
        ({"argv": ["x"], "name": "n" * 2000}, 400),
        ({"argv": ["x"], "name": "a\nb"}, 400),
        ({"argv": ["x"], "cwd": "../.."}, 400),
        ({"argv": ["x"], "snapshot": "../../x"}, 404),
        ({"argv": ["x"], "source": {"kind": "git", "diff": "%%%"}}, 400),
        ({"argv": ["x" * 300_000]}, 413),
        ({"argv": ["x"], "requirements": "a\n" * 3_000_000}, 413),
    ],
)
def test_bad_bodies(server: PlatformServer, body: dict[str, Any], status: int) -> None:
    with server.http() as http:
        answer = http.post("/api/v1/projects/default/jobs", json=body)
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["message"]
        assert http.get("/api/v1/projects/default/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "a/../../x", "a\0", ".git/hooks/post-checkout", "x" * 2000]
)
def test_bad_snapshot_paths(server: PlatformServer, path: str) -> None:
    with server.http() as http:
        files = [{"path": path, "mode": "100644", "sha256": "0" * 64, "size": 1}]
        answer = http.post("/api/v1/projects/default/code/snapshots", json={"files": files})
        assert answer.status_code == 400, answer.text
        assert http.post("/api/v1/projects/default/code/packs", content=b"junk").status_code == 400
        assert http.post("/api/v1/projects/default/code/snapshots", content=b"\xff{").status_code == 400


def test_odd_ids_and_pages(server: PlatformServer) -> None:
    with server.http() as http:
        place = "/api/v1/projects/default/jobs"
        assert http.get(f"{place}/abc").status_code == 400
        assert http.get(f"{place}/99999999999999999999999").status_code == 404
        assert http.get(f"{place}/-1").status_code == 404
        assert http.get(f"{place}?limit=0").status_code == 400
        assert http.get(f"{place}?state=asleep").status_code == 400
        assert http.get(f"{place}?before=99999999999999999999999").status_code in (200, 400)
        assert http.get(f"{place}/1/logs?offset=-1").status_code == 400
