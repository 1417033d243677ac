"""Model families under the import path that custom families have always used."""

from si.engines.families import FAMILIES, Family, family_of

__all__ = ["FAMILIES", "Family", "family_of"]
