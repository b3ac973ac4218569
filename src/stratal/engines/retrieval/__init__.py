"""The program that a job builds an index with: documents in, passages with embeddings out."""

from pathlib import Path

from stratal.ai.retrieval import terms

REQUIREMENTS = "pillow==13.0.0\npypdf==7.1.0\n"


_GIVEN = "from stratal.ai.retrieval.terms import"


def program() -> str:
    """Its text: ``python -c TEXT INDEX``.

    What a passage's words are is told by the server's own lines, put in front in place of their import.
    """
    build = Path(__file__).with_name("build.py").read_text().splitlines(keepends=True)
    given = Path(terms.__file__).read_text()
    return given + "\n\n" + "".join(line for line in build if not line.startswith(_GIVEN))
