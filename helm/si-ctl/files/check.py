"""Run by `helm test`: can si-ctl read the place, and does the bucket commit exactly once?"""

import sys
from pathlib import Path

from si.config.loading import load
from si.errors import SiError
from si.store.open import open_store

# One object, always the same, however often this is run.
ADDRESS, DATA = "checks/conditional-put", b"si-ctl: this was put here once\n"

try:
    _, place = load(Path(sys.argv[1]), environment={})
    store = open_store(place)
    store.create(ADDRESS, DATA)
    if store.create(ADDRESS, DATA):
        sys.exit(f"{store.url} puts the same object twice: it ignores If-None-Match")
    if store.get(ADDRESS) != DATA:
        sys.exit(f"{store.url}/{ADDRESS} holds something else")
except SiError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
print(f"the place can be read; {store.url} answers and commits exactly once")
