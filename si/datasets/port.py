"""The protocol of a hub: where models and data sets are published."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from si.store.port import Store

if TYPE_CHECKING:
    from si.store.commit import Manifest


class Hub(Protocol):
    """A hub from which models and data sets are fetched into the store, once each, as artefacts.

    Methods raise `RecipeError` or `DataError` for what does not exist or cannot be used, and
    `StoreUnavailable` if the hub does not answer.
    """

    def policy(self, store: Store, name: str) -> "Manifest":
        """Commit the model `owner/name` or `owner/name@revision`; return its manifest."""
        ...

    def data(self, store: Store, wish: Mapping[str, Any]) -> "Manifest":
        """Commit a data set; return its manifest.

        Args:
            wish: the recipe's `data` settings by dotted name, `data.source` and so on.
        """
        ...
