"""Death at a chosen point of a folder store, in this process: what `killer/` does to processes.

Every file of a folder store becomes visible by one rename or one hard link. Right before a link, or
right behind either, `Killed` is raised, and from then on nothing changes the store any more, as if
the process had gone: what tidies up behind an exception finds no way to.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from si.store.folder import FolderStore

ATTEMPT = re.compile(r"(?<=/\d{5}-)[0-9a-f]{12}(?=[/.])")


class Killed(BaseException):
    """The process has been killed; nothing but a test catches it."""


class KilledBeside(Exception):
    """The same in another thread: a pool hands on nothing but exceptions of this kind."""


class Deaths:
    """Points that a run passes, by name: `before`, `after` or `put`, and the file's address.

    Args:
        root: the store's folder; other files are no points.
        chosen: whether to die at the point of this name.
    """

    def __init__(self, root: Path, chosen: Callable[[str], bool]):
        self.root = root.resolve()
        self.chosen = chosen
        self.passed: list[str] = []
        self.dead = False

    def point(self, what: str, path: Path) -> None:
        self.breathe()
        if not path.is_relative_to(self.root):
            return
        # What an attempt calls its files is another name each time.
        name = f"{what} {ATTEMPT.sub('*', path.relative_to(self.root).as_posix())}"
        self.passed.append(name)
        self.dead = self.chosen(name)
        self.breathe()

    def breathe(self) -> None:
        """Raise if the process is dead."""
        if self.dead:
            main = threading.current_thread() is threading.main_thread()
            raise Killed if main else KilledBeside

    @contextlib.contextmanager
    def possible(self) -> Iterator[None]:
        """While this is open the points are counted, and kill."""
        link, rename, unlink = Path.hardlink_to, Path.replace, Path.unlink

        def hardlink_to(path: Path, target: Path) -> None:
            if not path.exists():  # else the link fails, and nothing changes
                self.point("before", path)
            link(path, target)
            self.point("after", path)

        def replace(path: Path, target: Path) -> Path:
            self.breathe()
            result = rename(path, target)
            self.point("put", Path(target))
            return result

        def remove(path: Path, missing_ok: bool = False) -> None:
            self.breathe()
            unlink(path, missing_ok)

        with contextlib.ExitStack() as stack:
            for name, made in (
                ("hardlink_to", hardlink_to),
                ("replace", replace),
                ("unlink", remove),
            ):
                stack.enter_context(mock.patch.object(Path, name, made))
            for name in ("put", "create", "delete"):
                stack.enter_context(mock.patch.object(FolderStore, name, self._alive_only(name)))
            yield

    def _alive_only(self, name: str) -> Callable[..., Any]:
        usual = getattr(FolderStore, name)

        def only_alive(*arguments: Any) -> Any:
            self.breathe()
            return usual(*arguments)

        return only_alive
