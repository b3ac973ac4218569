"""The operator's pip configuration becomes uv's variables, as pip itself would read it."""

import subprocess
import sys
from pathlib import Path

import pytest

from stratal.compute import package_sources
from stratal.compute.package_sources import fingerprint, has_credentials, pip_config, redact, uv_environment

pytestmark = pytest.mark.fast


def config(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def read(environ: dict[str, str], *prefixes: Path, machine: str = "/nowhere") -> dict[str, str]:
    return pip_config(environ, prefixes=[str(p) for p in prefixes], global_files=[machine])


def test_later_files_override_earlier_and_variables_override_all(tmp_path: Path) -> None:
    machine = config(
        tmp_path / "etc" / "pip.conf", "[global]\nindex-url = https://m/\ncert = /m.pem\ntimeout = 5\n"
    )
    config(tmp_path / "home/.config/pip/pip.conf", "[global]\nindex-url = https://u/\nretries = 2\n")
    config(tmp_path / "venv/pip.conf", "[install]\nindex-url = https://v/\n")
    environ = {"HOME": str(tmp_path / "home"), "PIP_RETRIES": "7", "PIP_FIND_LINKS": ""}
    assert read(environ, tmp_path / "venv", machine=machine) == {
        "index-url": "https://v/",
        "cert": "/m.pem",
        "timeout": "5",
        "retries": "7",
    }


def test_a_file_named_by_a_variable_replaces_the_users_own(tmp_path: Path) -> None:
    config(tmp_path / ".config/pip/pip.conf", "[global]\nindex-url = https://u/\nretries = 2\n")
    named = config(tmp_path / "ci.conf", "[global]\nindex_url = https://ci/\n")
    assert read({"HOME": str(tmp_path), "PIP_CONFIG_FILE": named}) == {"index-url": "https://ci/"}
    assert read({"HOME": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"}) == {}


def test_malformed_files_say_nothing(tmp_path: Path) -> None:
    config(tmp_path / ".config/pip/pip.conf", "no section\n[[[\n\xff")
    assert read({"HOME": str(tmp_path)}) == {}


def test_every_source_is_translated(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    made = uv_environment(
        {},
        {
            "index-url": "https://main/simple",
            "extra-index-url": "https://one/simple\nhttps://two/simple",
            "find-links": f"{wheels} {tmp_path / 'absent'}\nhttps://links/",
            "cert": "/etc/ca.pem",
            "trusted-host": "one two:8080",
            "timeout": "15.0",
            "pre": "true",
            "no-binary": "lxml,numpy",
            "only-binary": ":all:",
            "proxy": "http://proxy:3128",
        },
    )
    assert made == {
        "UV_DEFAULT_INDEX": "https://main/simple",
        "UV_INDEX": "https://one/simple https://two/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": f"{wheels},https://links/",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_INSECURE_HOST": "one two:8080",
        "UV_HTTP_TIMEOUT": "15",
        "UV_PRERELEASE": "allow",
        "UV_NO_BINARY_PACKAGE": "lxml numpy",
        "UV_NO_BUILD": "1",
        "HTTP_PROXY": "http://proxy:3128",
        "HTTPS_PROXY": "http://proxy:3128",
    }


def test_what_is_set_for_uv_wins_under_either_name() -> None:
    made = uv_environment(
        {"UV_INDEX_URL": "https://mine/", "UV_EXTRA_INDEX_URL": "https://more/", "UV_PYTHON": "3.9"},
        {"index-url": "https://pip/", "extra-index-url": "https://pip2/"},
    )
    assert made == {
        "UV_INDEX_URL": "https://mine/",
        "UV_EXTRA_INDEX_URL": "https://more/",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_no_index_leaves_the_folders_of_wheels(tmp_path: Path) -> None:
    made = uv_environment({}, {"no-index": "1", "index-url": "https://x/", "find-links": str(tmp_path)})
    assert made == {"UV_DEFAULT_INDEX": package_sources.NO_INDEX, "UV_FIND_LINKS": str(tmp_path)}


def test_uv_pip_is_told_in_words_what_it_does_not_read() -> None:
    assert package_sources.arguments({"UV_NO_BINARY_PACKAGE": "a b", "UV_NO_BUILD_PACKAGE": "c"}) == [
        *("--no-binary", "a", "--no-binary", "b", "--only-binary", "c")
    ]


def test_nothing_configured_gives_nothing() -> None:
    assert uv_environment({"PATH": "/bin", "HOME": "/root"}, {}) == {}


def test_credentials_are_hidden_and_do_not_identify_a_source() -> None:
    secret = {"UV_INDEX": "https://joe:s3cret@host/simple https://host2/simple", "UV_INDEX_X_PASSWORD": "p"}
    assert has_credentials(secret)
    assert not has_credentials({"UV_INDEX": "https://host/simple@v2"})
    assert redact("GET https://joe:s3cret@host/simple failed") == "GET https://****@host/simple failed"
    assert fingerprint(secret) == {"UV_INDEX": "https://host/simple https://host2/simple"}
    assert fingerprint({"UV_HTTP_TIMEOUT": "3", "UV_CACHE_DIR": "/x", "SSL_CERT_FILE": "/c"}) == {}


def test_local_sources_are_named_with_the_files_beside_an_index(tmp_path: Path) -> None:
    (tmp_path / "mirror" / "simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    found = package_sources.local_paths(
        {
            "UV_INDEX": f"own=file://{tmp_path}/mirror/simple https://h/",
            "UV_FIND_LINKS": str(tmp_path / "wheels"),
        }
    )
    assert set(found) == {tmp_path / "mirror/simple", tmp_path / "wheels", tmp_path / "mirror"}


def test_it_runs_alone_with_any_python(tmp_path: Path) -> None:
    config(tmp_path / ".config/pip/pip.conf", "[global]\nextra-index-url = https://h/a b\n")
    done = subprocess.run(
        [sys.executable, "-I", "-S", package_sources.__file__, "--sh"],
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "export UV_INDEX='https://h/a b'\n" in done.stdout
