"""A register of people who enrolled themselves: consent recorded, templates encrypted, each deletable, asked one at a time.

    python enrolment.py FOLDER enrol NAME picture.png --consent "I agree that …"
    python enrolment.py FOLDER verify NAME picture.png
    python enrolment.py FOLDER consent NAME
    python enrolment.py FOLDER forget NAME

Run it where the model can be loaded (``eval "$(stratal env --project solution-facial-recognition)"``, in the solution's
environment). The passphrase is read from FACE_REGISTER_PASSPHRASE. There is no way to ask who somebody is: a picture
is held against the one person who is named (1:1). Files are named by a keyed hash, so that a folder does not tell
who is in it; a record is bound to its person, so that swapped files do not open.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt


class Refused(Exception):
    """What was asked for is not done; the message says why and what to do."""


@dataclass(frozen=True)
class Register:
    """The folder's register, opened with a passphrase."""

    folder: Path
    key: bytes

    @classmethod
    def opened(cls, folder: Path, passphrase: str) -> "Register":
        """Makes the folder when it is not there. Raises `Refused` for a short or another passphrase."""
        if len(passphrase) < 12:
            raise Refused(
                "The passphrase has fewer than 12 characters: set FACE_REGISTER_PASSPHRASE to a longer one."
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        head = folder / "register.json"
        if not head.exists():
            salt = os.urandom(16)
            made = cls(folder, _derived(passphrase, salt))
            _kept(head, {"salt": _text(salt), "proof": _text(made._named("register"))})
            return made
        said = json.loads(head.read_text())
        found = cls(folder, _derived(passphrase, base64.b64decode(said["salt"])))
        if not hmac.compare_digest(found._named("register"), base64.b64decode(said["proof"])):
            raise Refused("This is not the passphrase that the register was made with.")
        return found

    def enrol(self, person: str, template: Any, consent: str) -> None:
        """Keep a template of somebody who agreed, in these words. Raises `Refused` without them, or for a second time."""
        if len(consent.strip()) < 10:
            raise Refused("Nobody is enrolled without their consent: record the words that they agreed to.")
        if self._path(person).exists():
            raise Refused(f"{person} is enrolled already; forget them first.")
        record = {
            "template": np.asarray(template, dtype=float).round(6).tolist(),
            "consent": consent,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        nonce = os.urandom(12)
        sealed = AESGCM(self.key).encrypt(nonce, json.dumps(record).encode(), person.encode())
        _kept(self._path(person), {"nonce": _text(nonce), "sealed": _text(sealed)})

    def verify(self, person: str, template: Any) -> float:
        """How alike (-1 to 1) the template is to that person's. Raises `Refused` when nobody of that name is enrolled."""
        own, asked = np.asarray(self._record(person)["template"]), np.asarray(template, dtype=float)
        return float(own @ asked / max(float(np.linalg.norm(own) * np.linalg.norm(asked)), 1e-12))

    def consent(self, person: str) -> tuple[str, str]:
        """The words that the person agreed to, and when."""
        record = self._record(person)
        return record["consent"], record["since"]

    def forget(self, person: str) -> bool:
        """Delete what is kept of the person; whether there was anything."""
        path = self._path(person)
        if not path.exists():
            return False
        path.write_bytes(os.urandom(path.stat().st_size))
        path.unlink()
        return True

    def _record(self, person: str) -> Any:
        path = self._path(person)
        if not path.exists():
            raise Refused(f"Nobody is enrolled as {person}.")
        said = json.loads(path.read_text())
        try:
            opened = AESGCM(self.key).decrypt(
                base64.b64decode(said["nonce"]), base64.b64decode(said["sealed"]), person.encode()
            )
        except InvalidTag:
            raise Refused(f"The record of {person} was changed or is somebody else's.") from None
        return json.loads(opened)

    def _path(self, person: str) -> Path:
        return self.folder / f"{self._named(person).hex()[:40]}.face"

    def _named(self, person: str) -> bytes:
        return hmac.new(self.key, b"name:" + person.encode(), hashlib.sha256).digest()


def _derived(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**14, r=8, p=1).derive(passphrase.encode())


def _kept(path: Path, what: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(what))
    part.chmod(0o600)
    part.replace(path)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("verb", choices=["enrol", "verify", "consent", "forget"])
    parser.add_argument("person")
    parser.add_argument("picture", nargs="?", type=Path)
    parser.add_argument("--consent", default="")
    given = parser.parse_args()
    try:
        register = Register.opened(given.folder, os.environ.get("FACE_REGISTER_PASSPHRASE", ""))
        if given.verb == "forget":
            print("forgotten" if register.forget(given.person) else "there was nothing")
        elif given.verb == "consent":
            print("\n".join(register.consent(given.person)))
        else:
            if given.picture is None:
                raise Refused("Name a picture.")
            import mlflow

            served = mlflow.pyfunc.load_model("models:/facial-recognition@champion").unwrap_python_model()
            template = served.predictor.template(_text(given.picture.read_bytes()))
            if given.verb == "enrol":
                register.enrol(given.person, template, given.consent)
                print(f"{given.person} is enrolled")
            else:
                alike = register.verify(given.person, template)
                print(
                    f"{'the same person' if alike >= served.predictor.threshold else 'not the same person'} ({alike:.3f})"
                )
    except Refused as refused:
        sys.exit(str(refused))


if __name__ == "__main__":
    main()
