"""What a hub of models and data sets is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from si.store.port import Store

if TYPE_CHECKING:
    from si.store.commit import Manifest


class Hub(Protocol):
    """Where models and data sets are published; what a recipe names of it is brought into the store
    once, as an artefact. Methods raise `RecipeError` for what is not there or cannot be used, and
    `StoreUnavailable` where the hub does not answer."""

    def policy(self, store: Store, name: str) -> "Manifest":
        """Commit the model `owner/name`, or `owner/name@revision`."""
        ...

    def data(self, store: Store, wish: Mapping[str, Any]) -> "Manifest":
        """Commit the data set that `wish` names: the recipe's `data` settings by dotted name."""
        ...
