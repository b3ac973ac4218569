"""Requirements are understood as people write them; what would reach beyond packages is refused."""

import pytest

from stratal.compute.requirements import canonical
from stratal.kernel.errors import Invalid, TooLarge

pytestmark = pytest.mark.fast


def test_comments_blank_lines_and_continuations_do_not_matter() -> None:
    text = "# all of it\r\n\nnumpy   # fast\npandas[all]>=2 ; python_version > '3'\nx==1 \\\n  --hash=sha256:ab\n"
    assert canonical(text) == "numpy\npandas[all]>=2 ; python_version > '3'\nx==1 --hash=sha256:ab\n"
    assert canonical("\n# nothing\n") == ""


@pytest.mark.parametrize(
    "line",
    [
        "foo @ https://host/foo-1-py3-none-any.whl#sha256=ab",
        "https://host/foo.tar.gz",
        "--extra-index-url https://host/simple",
        "--index-url=https://host/simple",
        "--no-binary :all:",
        "Foo.Bar_baz (>=1,<2)",
        "uvicorn [standard] ~= 0.3",
    ],
)
def test_accepted(line: str) -> None:
    assert canonical(line) == line + "\n"


@pytest.mark.parametrize(
    "line",
    [
        "-r other.txt",
        "--requirement=/home/x/.stratal/keys/master.key",
        "-c limits.txt",
        "-e .",
        ".",
        "./here",
        "/etc/passwd",
        "some/folder",
        "thing.whl",
        "thing-1.0.tar.gz",
        "foo @ file:///etc/passwd",
        "foo @ /etc/passwd",
        "--find-links /opt/wheels",
        "--find-links=../x",
        "--index-url file:///opt",
        "foo==${HOME}",
        "--global-option=x",
        "naïve",
        "foo bar",
    ],
)
def test_refused(line: str) -> None:
    with pytest.raises(Invalid):
        canonical(f"numpy\n{line}\n")


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(Invalid) as caught:
        canonical("foo @ https://joe:s3cret@host/foo.whl")
    assert "s3cret" not in str(caught.value)


def test_oversized_and_nul() -> None:
    with pytest.raises(TooLarge):
        canonical("a\n" * 600_000)
    with pytest.raises(Invalid):
        canonical("numpy\0")
