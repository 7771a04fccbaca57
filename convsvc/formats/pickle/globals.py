"""Which names a checkpoint's pickle may speak of: built, inert, or hostile.

Nothing named here is ever imported. Names of what runs code, reaches files, or looks up attributes stand in no honest checkpoint's
way, so a file that holds one is refused whole and not merely read around: whoever loads it elsewhere is attacked. Everything else is
an `Inert` record, whatever it is: a training framework's enums and configs, a stream of bytes, a path, a signal's number. Modules that
are refused have such classes too; they are listed one by one, as what they hold is a value and to make one is no deed.
"""

# ruff: noqa: SIM905  (a paragraph of words can be read and searched; a hundred quoted strings cannot)
from __future__ import annotations

import builtins

from convsvc.errors import FormatError, HostileFile
from convsvc.formats.base import Global

# Top-level modules, as pickles of Python 2 and 3 name them.
REFUSED_MODULES = frozenset(
    """
    _ctypes _io _imp _operator _posixsubprocess _socket _thread _winapi _xxsubinterpreters aiohttp ast asyncio asyncore atexit bdb
    cProfile cffi cloudpickle code codeop concurrent ctypes dill distutils doctest ensurepip fileinput ftplib functools gc
    glob http httplib idlelib imaplib imp importlib inspect io ipykernel IPython joblib linecache lib2to3 marshal mmap msvcrt
    multiprocessing nntplib nt ntpath numexpr operator os pathlib pdb pickle _pickle cPickle pickletools pip pkg_resources pkgutil
    platform popen2 poplib posix posixpath profile pty py_compile pydoc requests rlcompleter runpy select selectors
    setuptools shelve shlex shutil signal site smtplib socket socketserver sqlite3 ssl subprocess sys sysconfig tarfile telnetlib
    tempfile thread threading timeit trace types unittest urllib urllib2 urllib3 uuid venv webbrowser winreg xmlrpc yaml
    zipapp zipfile zipimport
    """.split()
)

# Modules below roots that are otherwise inert.
REFUSED_PREFIXES = (
    "numpy.f2py", "numpy.distutils", "numpy.testing", "numpy.load", "numpy.lib.npyio", "numpy.ctypeslib", "numpy.memmap",
    "torch.hub", "torch.jit", "torch.load", "torch.save", "torch.serialization", "torch.package", "torch.storage._load_from_bytes",
    "torch.utils.cpp_extension", "torch.utils.model_zoo", "torch.utils.collect_env", "torch.utils.data.datapipes",
    "torch.multiprocessing", "torch._inductor", "torch._dynamo", "torch.fx", "torch.distributed.rpc", "torch.distributed.elastic",
    "torch.ops", "torch.classes", "torch.compile", "torch.testing", "torch._C._jit", "torch.utils.bottleneck",
    "logging.config", "builtins", "copyreg", "_codecs", "codecs",
)  # fmt: skip

# Exact names which the lists above would refuse, though honest checkpoints hold them: Transformer Engine keeps its `_extra_state` in a
# BytesIO, Megatron's args a signal, and pickles of protocol 2 make all bytes with _codecs.encode.
ALLOWED = frozenset(
    f"builtins.{name}"
    for name in """
    set frozenset list dict tuple str int float bool bytes bytearray complex range slice object type NoneType Ellipsis
    NotImplemented getattr memoryview xrange long unicode
    """.split()
) | frozenset(
    """
    _codecs.encode copyreg._reconstructor copyreg.__newobj__ copyreg.__newobj_ex__ functools.partial functools.partialmethod
    io.BytesIO io.StringIO _io.BytesIO _io.StringIO torch.serialization._get_layout
    types.SimpleNamespace types.MappingProxyType types.NoneType types.GenericAlias types.UnionType uuid.UUID
    inspect.Parameter inspect.Signature inspect._empty
    """.split()
) | frozenset(
    f"pathlib{part}.{name}"
    for part in ("", "._local")
    for name in "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath".split()
)  # fmt: skip

# Enums: their members are named below them, and are as inert as they are.
ENUMS = frozenset("signal.Signals signal.Handlers signal.Sigmasks uuid.SafeUUID inspect._ParameterKind".split())

# Values too: what went wrong, kept in a training state.
_EXCEPTIONS = frozenset(name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException))

# Python 2 names, which protocol 2 still writes (lib/python3/_compat_pickle.py).
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins", "cPickle": "pickle"}


def global_named(module: str, name: str, source: str) -> Global:
    """The inert stand-in for `module.name`; `source` is the file, for the error.

    >>> global_named("torch", "bfloat16", "model.pt").name
    'bfloat16'

    Raises HostileFile for what only an attack names, FormatError for what is no name.
    """
    module = _RENAMED.get(module, module)
    full = f"{module}.{name}"
    if len(full) > 1000 or not module or not name or not full.isprintable() or " " in full:
        raise FormatError(f"{source} names a global that cannot exist", facts=[repr(full[:80])])
    if not _is_allowed(full) and (module.split(".")[0] in REFUSED_MODULES or _is_below_refused(full) or _has_dunder(full)):
        raise hostile(source, full)
    return Global(module, name)


def member_of(owner: object, attribute: object, source: str) -> Global:
    """What `getattr(owner, attribute)` would name: enum members and nested classes are pickled so by some Pythons.

    Raises HostileFile where it is not a plain member of a class that only was named.
    """
    plain = type(attribute) is str and len(attribute) < 500 and "." not in attribute
    if type(owner) is not Global or owner.module == "builtins" or not plain:
        raise hostile(source, "builtins.getattr")
    return global_named(owner.module, f"{owner.name}.{attribute}", source)


def hostile(source: str, name: str) -> HostileFile:
    """The error for a file that names what runs code."""
    return HostileFile(
        f"{source} asks to run code: {name}",
        facts=["nothing of it was run; a checkpoint has no need of this name"],
        do="do not load this file with anything; get the checkpoint from a source you trust",
        details={"file": source, "global": name},
    )


def _is_allowed(full: str) -> bool:
    if full in ALLOWED or full in ENUMS or (full.startswith("builtins.") and full[9:] in _EXCEPTIONS):
        return True
    owner, _, member = full.rpartition(".")
    return owner in ENUMS and not member.startswith("_")


def _is_below_refused(full: str) -> bool:
    return any(full == prefix or full.startswith(prefix + ".") for prefix in REFUSED_PREFIXES)


def _has_dunder(full: str) -> bool:
    # A class's own machinery (`__subclasses__`, `__globals__`) is how attacks climb; `__main__` is where scripts define classes.
    return any(part.startswith("__") and part.endswith("__") for part in full.removeprefix("__main__.").split("."))
