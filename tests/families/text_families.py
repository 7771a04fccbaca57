"""The families of text models: those that are one module. Text models' formats hold no other."""

from __future__ import annotations

from convsvc.families import FAMILIES

TEXT_FAMILIES = tuple(name for name, family in FAMILIES.items() if not family.towers and family.decoder)
