"""One exception type: what happened, where, and what to try next.

Exit codes separate "do not try again" from "try again", so that a script, a
shell loop or a Kubernetes Job can act on them without reading the words.
"""

UNUSABLE = 3  # recipe or data unusable: trying again gives the same answer
RETRY = 4  # storage, machine or a peer was in the way: trying again may succeed
SHARD = 5  # this shard cannot be done: the others can
STOPPED = 6  # a limit of the user's own is reached: trying again changes nothing, raising it does


class SiError(Exception):
    """An error for people: a headline, details, and ways out.

    Args:
        headline: one sentence, what is wrong, naming the thing.
        detail: where, expected and got; may have several lines.
        ways_out: what to try next, one entry a way.
    """

    exit_code = 1

    def __init__(self, headline: str, detail: str = "", ways_out: tuple[str, ...] | str = ()):
        super().__init__(headline)
        self.headline = headline
        self.detail = detail
        self.ways_out = (ways_out,) if isinstance(ways_out, str) else tuple(ways_out)

    def __str__(self) -> str:
        lines = [self.headline]
        if self.detail:
            lines.append(self.detail)
        lines += [f"  - {way}" for way in self.ways_out]
        return "\n".join(lines)


class RecipeError(SiError):
    """The recipe, a flag or an environment variable cannot be used."""

    exit_code = UNUSABLE


class DataError(SiError):
    """The data set is empty, damaged or unfit for what was asked."""

    exit_code = UNUSABLE


class NothingToTrain(SiError):
    """No response of an iteration was correct; training on nothing is refused."""

    exit_code = UNUSABLE


class ArtifactMissing(SiError):
    """A committed artefact, or a file of one, is not where its record says."""

    exit_code = UNUSABLE


class ArtifactDamaged(SiError):
    """A file's size or SHA-256 is not the recorded one."""

    exit_code = UNUSABLE


class RunChanged(SiError):
    """The recipe differs from the one this run was begun with."""

    exit_code = UNUSABLE


class RunMissing(SiError):
    """No run of this name is in the store."""

    exit_code = UNUSABLE


class StoreUnavailable(SiError):
    """The bucket or folder does not answer, refuses, or is full."""

    exit_code = RETRY


class RunBusy(SiError):
    """Another process is working on this run."""

    exit_code = RETRY


class TrackerFailed(SiError):
    """MLflow, W&B or the like does not answer, or refuses."""

    exit_code = RETRY


class ShardFailed(SiError):
    """One shard cannot be done."""

    exit_code = SHARD


class StageFailed(SiError):
    """A stage ended without its manifest; carries the exit code of its workers."""

    def __init__(
        self,
        headline: str,
        detail: str = "",
        ways_out: tuple[str, ...] | str = (),
        exit_code: int = RETRY,
    ):
        super().__init__(headline, detail, ways_out)
        self.exit_code = exit_code
