"""Where a run's artefacts come from: all that its report rests on, and what each was made of."""

from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from si.entry import ROLES, STEPS
from si.store.artifact import Artifact
from si.store.keys import Ref
from si.store.port import Store

THREADS = 8  # records read at once, where a bucket answers slowly


class Node(NamedTuple):
    """An artefact of a run.

    Attributes:
        t: the first iteration that it has a part in.
        place: which part: a step of `si.entry`.
        inputs: role -> address.
    """

    address: str
    content: str
    t: int
    place: str
    rows: int
    size: int
    inputs: Mapping[str, str]

    @property
    def anchor(self) -> str:
        """Its name within a page, by the key at its address's end."""
        return f"a-{self.address.rpartition('-')[2]}"


def lineage(store: Store, refs: Mapping[str, Ref]) -> list[Node]:
    """All artefacts behind `refs` (the report stage's inputs by role), by iteration and place."""
    by_iteration = defaultdict(list)
    for role, ref in sorted(refs.items()):
        name, _, number = role.rpartition("-")
        by_iteration[int(number) if name else 0].append((_STEP_OF.get(name, role), ref))
    found: dict[str, Node] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for t, waiting in sorted(by_iteration.items()):
            while waiting:
                new: dict[str, tuple[str, Ref]] = {}
                for place, ref in waiting:
                    if ref.address not in found:
                        new.setdefault(ref.address, (place, ref))
                opened = pool.map(lambda each: Artifact.open(store, each[1]), new.values())
                waiting = []
                for (place, ref), artifact in zip(new.values(), opened, strict=True):
                    inputs = sorted(artifact.manifest.spec.inputs.items())
                    found[ref.address] = Node(
                        ref.address,
                        ref.content,
                        t,
                        place,
                        artifact.manifest.rows,
                        sum(blob.size for blob in artifact.blobs()),
                        {role: each.address for role, each in inputs},
                    )
                    waiting += [(_place(role, place), each) for role, each in inputs]
    order = {place: i for i, place in enumerate(STEPS)}
    return sorted(found.values(), key=lambda n: (n.t, order.get(n.place, len(order)), n.address))


_STEP_OF = {role: step for step, role in ROLES.items()}


def _place(role: str, above: str) -> str:
    """What an input is in the run, by its role in what it is an input of."""
    kind = role.partition("-")[0]
    if kind in ("rollouts", "verdicts"):
        step = "explore" if kind == "rollouts" else "verify"
        scope = above.partition("-")[0]
        return f"{scope}-{step}" if scope in ("evaluate", "levels") else step
    return {"draws": "resample", "base": "policy", "start": "policy"}.get(kind, kind)
