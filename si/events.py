"""What a worker tells: events on standard output, and in a pod its last words."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from si.errors import SiError

Event = dict[str, Any]

# What a pod's last words are read from; Kubernetes makes it, and keeps so many bytes of it.
LAST_WORDS = Path("/dev/termination-log")
MOST = 4096


def emit(event: str, **fields: object) -> None:
    """One JSON line on standard output: what the controller and log collectors read."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def tell(error: SiError) -> None:
    """Tell the controller what went wrong, by event and, in a pod, by the pod's last words."""
    emit("error", headline=error.headline, detail=error.detail, ways_out=error.ways_out)
    last_words(error)


def last_words(error: SiError) -> None:
    """In a pod, leave an error where the cluster shows it; nothing elsewhere."""
    with suppress(OSError):  # somebody else's pod may not let us
        if not LAST_WORDS.exists():
            return
        said = {"headline": error.headline[:400], "detail": error.detail[:1000]}
        text = json.dumps(said | {"ways_out": error.ways_out})
        if len(text) > MOST:  # cut in the middle nobody could read it
            text = json.dumps(said | {"detail": error.detail[:100], "ways_out": ()})
        LAST_WORDS.write_text(text)
