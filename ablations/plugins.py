"""Code outside this package: study files, and modules that add poolings, trunks, heads, activations or data sets.

A driver loads it, and sends each worker what it needs to load the same: the source of a file, which then need not exist where the
worker is, or the name of a package. Standard library only.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType

from nin.registry import ADDITIONS, SCRIPT, SPAWNED_SCRIPT, located, source_of

GROUP = "nin_ablations.plugins"  # entry points of installed packages, each of which names a module
FILE_MODULE = "nin_ablations_file_"  # how the modules of files are called, so that random.py hides no other module

_loaded: dict[str, None] = {}  # modules in the order in which they were loaded
_imports: dict[str, None] = {}  # those of them that were asked for by name
_sources: dict[str, str] = {}  # what this worker has executed of what it was sent


@dataclass(frozen=True)
class Plugin:
    """A module that workers load: from its source, or by its name where that is empty."""

    module: str
    file: str = ""
    source: str = field(default="", repr=False)


def load_plugins(imports: Iterable[str] = ()) -> None:
    """Load what installed packages offer as entry points, and the modules of these names.

    Raises ValueError, in one line, for one that does not exist or cannot be loaded.
    """
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.module not in _loaded:
            _import(entry.module, f"entry point {entry.name!r} of {GROUP}: ")
    for name in imports:
        if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"--import {name!r}: name a module, as in `import my_module`; its file is my_module.py")
        _import(name, "--import ")
        _imports[name] = None


def imports() -> list[str]:
    """Names of the modules loaded by `--import`."""
    return list(_imports)


def load_file(path: Path) -> ModuleType:
    """Execute a Python file and return its module. What it imports may lie beside it.

    Raises ValueError, in one line with the number of the line at fault, for a file that is not there or cannot be executed.
    """
    try:
        source = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(f"{path} cannot be read ({reason}): name a study's file, or a study") from error
    _search_in(path.resolve().parent)
    name = FILE_MODULE + path.stem
    try:
        module = _execute(Plugin(name, str(path), source))
    except (Exception, SystemExit) as error:
        raise ValueError(located(error, str(path))) from error
    _loaded[name] = None
    return module


def for_workers() -> tuple[Plugin, ...]:
    """Every module that was loaded or has added a name, for `install`."""
    modules = dict.fromkeys([*_loaded, *(addition.module for addition in ADDITIONS.values())])
    return tuple(plugin for plugin in map(_plugin, modules) if plugin is not None)


def package_folders() -> list[str]:
    """The folders of packages that were loaded and are not installed, which travel with tasks to other machines."""
    tops = dict.fromkeys(plugin.module.partition(".")[0] for plugin in for_workers() if not plugin.source)
    folders = [str(Path(folder)) for top in tops for folder in getattr(sys.modules.get(top), "__path__", [])]
    return [folder for folder in folders if "site-packages" not in Path(folder).parts]


def module_label(module: str) -> str:
    """The name of a module in records: for a file, the file's name."""
    return f"{module.removeprefix(FILE_MODULE)}.py" if module.startswith(FILE_MODULE) else module


def install(plugins: Sequence[Plugin]) -> None:
    """Load, in a worker, the modules that its driver sent. Raises whatever their code raises."""
    for plugin in plugins:
        if not plugin.source:
            importlib.import_module(plugin.module)
        elif plugin.module not in sys.modules or _sources.get(plugin.module, plugin.source) != plugin.source:
            _execute(plugin)
            _sources[plugin.module] = plugin.source


def _execute(plugin: Plugin) -> ModuleType:
    module = ModuleType(plugin.module)
    # Of the same file that a module was imported from: the name of a file that is sent holds in any working directory.
    module.__dict__.update(__file__=str(Path(plugin.file).absolute()), __source__=plugin.source)
    before = sys.modules.get(plugin.module)
    sys.modules[plugin.module] = module
    try:
        exec(_compiled(plugin), module.__dict__)
    except BaseException:
        del sys.modules[plugin.module]
        if before is not None:
            sys.modules[plugin.module] = before
        raise
    return module


def _compiled(plugin: Plugin) -> CodeType:
    try:
        return compile(plugin.source, plugin.file, "exec")
    except ValueError as error:  # Python before 3.11.4, of a null byte: without its place
        raise SyntaxError(str(error), (plugin.file, 1, 0, "")) from error


def _search_in(folder: Path) -> None:
    """Let modules in the folder be imported, here and in workers; last, so that nothing in it hides what is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import(name: str, role: str) -> None:
    _search_in(Path.cwd())  # which `python -m` searches, but not a command that was installed
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(f"{role}{name}: there is no module of that name, here or installed") from error
        raise ValueError(f"{role}{name}: {located(error, _home(name))}") from error
    _loaded[name] = None


def _home(name: str) -> str:
    """The file of a module, or the folder of a package; empty where it has none."""
    spec = importlib.util.find_spec(name.partition(".")[0])
    folders = spec.submodule_search_locations if spec else None
    return next(iter(folders), "") if folders else (spec and spec.origin) or ""


def _plugin(name: str) -> Plugin | None:
    """Describe how workers load the module; None for a module without source, whose every use `ablations.runs.code_of` has refused."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None) or ""
    if module is None or not (file or name != SCRIPT):
        return None
    if "." in name or hasattr(module, "__path__"):
        return Plugin(name)
    source = source_of(vars(module)).decode()
    return Plugin(SPAWNED_SCRIPT if name == SCRIPT else name, file, source) if source else Plugin(name)
