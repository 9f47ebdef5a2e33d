"""Which modules a package has: what the zygote imports ahead of runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import Distribution, MetadataPathFinder
from pathlib import Path, PurePosixPath


def modules_of(packages: Path, names: Sequence[str]) -> list[str]:
    """The top-level modules of the named packages in a directory of installed ones.

    Reads what was written at their installation and imports nothing.
    """
    modules: set[str] = set()
    for name in names:
        context = MetadataPathFinder.Context(name=name, path=[str(packages)])
        for distribution in MetadataPathFinder.find_distributions(context):
            modules.update(_modules(distribution))
    return sorted(modules)


def _modules(distribution: Distribution) -> set[str]:
    found = set()
    for file in distribution.files or ():
        path = PurePosixPath(file)
        if path.suffix != ".py" or len(path.parts) > 2:
            continue
        # A module of its own, or the package that an __init__.py makes.
        if len(path.parts) == 1:
            found.add(path.stem)
        elif path.name == "__init__.py":
            found.add(path.parts[0])
    return {name for name in found if name.isidentifier() and not name.startswith("_")}
