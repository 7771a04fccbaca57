"""Which parts of the file system a job may touch, and how files are opened so that nothing leads out of them."""

from convsvc.roots.allowed import ANYWHERE, Roots
from convsvc.roots.rooted_path import RootedPath

__all__ = ["ANYWHERE", "RootedPath", "Roots"]
