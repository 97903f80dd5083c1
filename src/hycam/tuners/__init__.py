"""The methods of this project in PEFT's own shape, one folder each.

Every folder is imported here and registers its method with PEFT. A row in :mod:`hycam.methods` makes it known to
recipes.
"""

from importlib import import_module
from pkgutil import iter_modules

for _folder in iter_modules(__path__):
    if _folder.ispkg:
        import_module(f"{__name__}.{_folder.name}")
