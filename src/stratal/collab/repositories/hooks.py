"""The only two hooks that ever run, written by us: what a push may change, and what it did change.

They run inside git's own transaction, where the objects pushed are readable (in quarantine) and a refusal
undoes the whole push; so what a protected branch allows is decided where git itself decides.
"""

import os
from pathlib import Path

_PRE_RECEIVE = """#!/bin/sh
# Refuses what a protected branch does not allow, and refs that are not people's. Written by Stratal at each start.
refused=0
while read -r old new ref; do
  case "$ref" in
    *[!!-~]*) printf '%s' "$ref" | iconv -f UTF-8 -t UTF-8 >/dev/null 2>&1 || {
      echo "stratal: the name of a branch or tag is text in UTF-8" >&2; refused=1; continue; } ;;
  esac
  case "$ref" in
    refs/heads/*) name=${ref#refs/heads/} ;;
    refs/tags/*|refs/notes/*) continue ;;
    *) echo "stratal: only branches, tags and notes can be pushed, not $ref" >&2; refused=1; continue ;;
  esac
  case "$old" in *[!0]*) ;; *) continue ;; esac
  protected=0
  set -f
  for pattern in $STRATAL_PROTECTED; do
    case "$name" in $pattern) protected=1 ;; esac
  done
  [ "$protected" = 1 ] || continue
  case "$new" in
    *[!0]*)
      git merge-base --is-ancestor "$old" "$new" && continue
      echo "stratal: $name is protected: its history only grows. Merge or rebase onto it, and push again." >&2 ;;
    *)
      echo "stratal: $name is protected: it cannot be removed. An owner lifts that with: stratal repo protect" >&2 ;;
  esac
  refused=1
done
exit "$refused"
"""

_POST_RECEIVE = """#!/bin/sh
# Says which refs changed, for the record of the push. Written by Stratal at each start.
[ -f "$STRATAL_PUSH" ] || exit 0
while IFS= read -r line; do printf '%s\\n' "$line"; done >> "$STRATAL_PUSH"
"""


def lay_out(folder: Path) -> None:
    """Write the hooks into `folder`, which git is pointed at."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in (("pre-receive", _PRE_RECEIVE), ("post-receive", _POST_RECEIVE)):
        scratch = folder / f".{name}"
        scratch.write_text(text)
        os.chmod(scratch, 0o700)  # noqa: PTH101
        scratch.replace(folder / name)
