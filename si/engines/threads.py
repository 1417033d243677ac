"""How OpenMP's threads wait for each other.

By default they spin. On a machine that has other work, spinning threads take the cores from
those they wait for: an engine on two busy cores was 20 times slower (docs/engines.md).
"""

import os
from collections.abc import MutableMapping


def sleep_while_waiting(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads sleep. OpenMP reads this when torch loads it: call it before that."""
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
