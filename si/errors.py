"""The exceptions that si-ctl raises on purpose: what happened, where, and what to do.

    SiError                 1  the root; only its subclasses are common
    ├── RecipeError         3  a recipe, flag or environment variable is invalid
    ├── DataError           3  a data set, file or row cannot be used
    ├── NothingToTrain      3  no response of an iteration was correct
    ├── ArtifactMissing     3  a committed file is not where its record says
    ├── ArtifactDamaged     3  a committed file has another size or hash
    ├── RunChanged          3  the recipe differs from the run's
    ├── RunMissing          3  the store has no such run
    ├── StoreUnavailable    4  the bucket, folder or hub does not answer
    ├── RunBusy             4  another process works on the run
    ├── TrackerFailed       4  MLflow, Weights & Biases or the like does not answer
    └── StageFailed         as its workers  a stage ended without its manifest

The number is the exit code of the command. Scripts and Kubernetes Jobs decide by it, without
parsing the message, whether to try again.
"""

USAGE = 2  # what was typed cannot be done: another path, another option
UNUSABLE = 3  # the recipe or the data are at fault: another attempt fails in the same way
RETRY = 4  # storage, a machine or a peer failed: another attempt may succeed
# 5 is reserved: a stage's Job gives up one index for it. Only custom code can exit with it.
STOPPED = 6  # the run reached its budget or its patience: raise the limit to continue


class SiError(Exception):
    """An error with a message for people: a headline, details, and what to do about it.

    Args:
        headline: one sentence that says what happened and names the object.
        detail: where it happened, what was expected and what was found; may have several lines.
        ways_out: what the reader can do, one entry for each way; commands can be pasted.
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
    """A recipe, a flag or an environment variable has a value that cannot be used."""

    exit_code = UNUSABLE


class OutputError(SiError):
    """A file or folder that the user named cannot be written; nothing was."""

    exit_code = USAGE


class DataError(SiError):
    """A data set, a file or a row is empty, damaged or unfit for what was asked."""

    exit_code = UNUSABLE


class NothingToTrain(SiError):
    """No response of an iteration was correct, so that there are no examples to train on."""

    exit_code = UNUSABLE


class ArtifactMissing(SiError):
    """A committed artefact, or a file of it, is not where its record says."""

    exit_code = UNUSABLE


class ArtifactDamaged(SiError):
    """A file's size or SHA-256 differs from the one recorded at its commit."""

    exit_code = UNUSABLE


class RunChanged(SiError):
    """The recipe differs from the one that this run was started with."""

    exit_code = UNUSABLE


class RunMissing(SiError):
    """The store has no run of this name."""

    exit_code = UNUSABLE


class StoreUnavailable(SiError):
    """The bucket, the folder or the hub does not answer, denies access, or is full."""

    exit_code = RETRY


class RunBusy(SiError):
    """Another process is working on this run."""

    exit_code = RETRY


class TrackerFailed(SiError):
    """A tracker (MLflow, Weights & Biases, ...) does not answer, or rejects what it is sent."""

    exit_code = RETRY


class StageFailed(SiError):
    """A stage ended without its manifest; `exit_code` is the one of its workers."""

    def __init__(
        self,
        headline: str,
        detail: str = "",
        ways_out: tuple[str, ...] | str = (),
        exit_code: int = RETRY,
    ):
        super().__init__(headline, detail, ways_out)
        self.exit_code = exit_code
