"""``enable``, ``disable`` and ``using``: which backend runs the components of which pipelines."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import weakref

from . import plugins, routes
from .compat import cuda_redirection, diffusers_pipelines, memory_exits, mindspore_runtime
from .errors import refusal
from .hookspecs import Engine, Options, Site

logger = logging.getLogger(__name__)

_lock = threading.RLock()
_engines: dict[tuple, Engine] = {}  # built once, kept while enabled: they hold the compiled graphs


class _State:
    """everywhere: the engine of all pipelines, or None. single: engines of pipelines enabled one by one.
    excluded: pipelines taken out by ``disable(pipe)``. temporary: everywhere is torch, for the open blocks (their
    number) of :func:`using` in all threads, and ends with the last one."""

    def __init__(self):
        self.everywhere: Engine | None = None
        self.single: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self.excluded: weakref.WeakSet = weakref.WeakSet()
        self.temporary = False
        self.blocks = 0
        self.original_setattr = None

    def engine(self, pipeline) -> Engine | None:
        if pipeline in self.single:
            return self.single[pipeline]
        return None if pipeline in self.excluded else self.everywhere


_state = _State()


def enable(pipe=None, *, backend: str = "mindspore", device: str | None = None, strict: bool = False,
           cache_dir: str | None = None, max_graphs: int = 16, release_host_weights: bool = False,
           redirect: bool | None = None) -> None:  # fmt: skip
    """Run the heavy components of diffusers pipelines on a backend.

    pipe: a pipeline; None: every pipeline, built before or after this call.
    backend: ``"mindspore"``, ``"torch"`` or one that a plugin registered.
    device: ``"cpu"`` or ``"ascend"``; None: Ascend where there is one, else CPU.
    strict: raise :class:`~ms_controlnet_backend.errors.Refused` where a component cannot be compiled. Without it the
        component stays on torch and one warning says which, why and what to do.
    cache_dir: folder of the generated MindSpore sources; None: ``$MS_CONTROLNET_CACHE`` or the user's cache folder.
    max_graphs: compiled graphs kept a component (one a signature and structure: sizes, batch, flags, LoRAs); beyond
        that the one not used for longest is dropped.
    release_host_weights: once a component is compiled, give up torch's memory of those weights that the device holds a
        copy of: all on an NPU; on CPU those of float16 and bfloat16 scripts, which are computed in float32. Whatever
        asks for them later (``save_pretrained``, a LoRA, torch) gets them from the device; so does :func:`disable`.
    redirect: CUDA and NPU calls of the script mean the CPU, in the whole process and all its threads
        (:mod:`.compat.cuda_redirection`); None: if torch has neither CUDA nor torch_npu here.

    Calling it again changes nothing, or changes the options if they are others. Undone by :func:`disable`.
    Raises UnknownBackend, UnknownDevice, DeviceUnavailable, UnsupportedVersion; TypeError if ``pipe`` is no pipeline.
    """
    with _lock:
        if pipe is not None and not diffusers_pipelines.is_pipeline(pipe):
            raise TypeError(f"enable(pipe) needs a diffusers pipeline, got {type(pipe).__name__}")
        engine = _engine(backend, device=device, strict=strict, cache_dir=cache_dir, max_graphs=max_graphs,
                         release_host_weights=release_host_weights)  # fmt: skip
        if pipe is None:
            _state.everywhere, _state.temporary = engine, False
            _state.excluded.clear()
        else:
            _state.single[pipe] = engine
            _state.excluded.discard(pipe)
        _redirect(redirect, engine)
        _watch()
        for pipeline in diffusers_pipelines.pipelines() if pipe is None else [pipe]:
            _bind(pipeline)


def disable(pipe=None) -> None:
    """Back to plain torch: nothing of this package is left on the pipeline, its modules, diffusers or torch.

    pipe: a pipeline; its components, also where another pipeline shares them; None: everything.
    """
    with _lock:
        if pipe is None:
            modules = routes.interceptor.attached()
            routes.detach_all()
            _restore(modules)
            _state.everywhere, _state.temporary = None, False
            _state.single.clear()
            _state.excluded.clear()
            _unwatch()
            _engines.clear()
            cuda_redirection.release(__name__)
            return
        if not diffusers_pipelines.is_pipeline(pipe):
            raise TypeError(f"disable(pipe) needs a diffusers pipeline, got {type(pipe).__name__}")
        for component in diffusers_pipelines.components(pipe).values():
            for site in _sites(component, ""):
                routes.detach(site.module)
                _restore([site.module])
        _state.single.pop(pipe, None)
        if _state.everywhere is not None:
            _state.excluded.add(pipe)
        elif not _state.single:
            _unwatch()
            cuda_redirection.release(__name__)


def _redirect(redirect: bool | None, engine: Engine, holder: str = __name__) -> None:
    if cuda_redirection.wanted() if redirect is None else redirect:
        cuda_redirection.hold(holder, engine.describe())
    else:
        cuda_redirection.release(holder)


@contextlib.contextmanager
def redirected(engine: Engine, redirect: bool | None = None):
    """Inside the block CUDA and NPU calls are redirected as with ``enable(redirect=…)``. engine: what scripts that
    ask for the device's name are told of."""
    holder = f"{__name__} {id(engine)}"
    _redirect(redirect, engine, holder)
    try:
        yield
    finally:
        cuda_redirection.release(holder)


@contextlib.contextmanager
def using(backend: str, **options):
    """Run the pipeline calls of this thread on a backend, inside the ``with`` block; for A/B in one process.

    options: as of :func:`enable`. Compiled graphs are kept from block to block until :func:`disable`. Raises as
    :func:`enable` does.
    """
    with on(build(backend, **options)):
        yield


def build(backend: str, **options) -> Engine:
    """The engine that :func:`using` runs these options on, built if there is none yet. Raises as :func:`enable`."""
    with _lock:
        return _engine(backend, **options)


@contextlib.contextmanager
def on(engine: Engine):
    """As :func:`using`, with an engine: one of :func:`build`, or one that watches another."""
    with _lock:
        if _state.everywhere is None:  # pipelines that are not enabled otherwise run on torch outside the block
            _state.everywhere, _state.temporary = _engine("torch"), True
            _watch()
            for pipeline in diffusers_pipelines.pipelines():
                _bind(pipeline)
        counted = _state.temporary
        _state.blocks += counted
    token = routes.in_force.set(engine)
    try:
        yield
    finally:
        routes.in_force.reset(token)
        with _lock:
            _state.blocks -= counted
            if _state.temporary and not _state.blocks:
                _end_temporary()


def _end_temporary() -> None:
    _state.everywhere, _state.temporary = None, False
    modules = routes.interceptor.attached()
    routes.detach_all()
    for pipeline in list(_state.single):
        _bind(pipeline)
    _restore(set(modules).difference(routes.interceptor.attached()))
    if not _state.single:
        _unwatch()


def _restore(modules) -> None:
    """No engine's any more."""
    for engine in _engines.values():
        restore = getattr(engine, "restore", None)
        for module in modules if restore else ():
            restore(module)


def stats() -> dict:
    """Component label → :class:`~ms_controlnet_backend.runtime.stats.Stats`, of all engines in use."""
    total: dict = {}
    for engine in list(_engines.values()):
        for label, numbers in getattr(engine, "stats", dict)().items():
            total[label] = total[label] + numbers if label in total else numbers
    return total


def device(backend: str = "mindspore", **options) -> str:
    """What the backend runs on, in one line."""
    return _engine(backend, **options).describe()


def _engine(backend: str, device: str | None = None, **options) -> Engine:
    """The engine of these options, built if there is none yet."""
    options = Options(mindspore_runtime.numbered_device(device), **options)
    entry = plugins.registry().backend(backend)
    key = (backend, options)
    if key not in _engines:
        _engines[key] = entry.build(options)
        logger.info("backend %s: %s", backend, _engines[key].describe())
    return _engines[key]


# -- components entering pipelines ---------------------------------------------------------------------------------


def _watch() -> None:
    """Bind whatever is assigned to a pipeline from now on."""
    cls = diffusers_pipelines.pipeline_class()
    if _state.original_setattr is not None:
        return
    memory_exits.open_up()
    original = _state.original_setattr = cls.__setattr__

    @functools.wraps(original)
    def __setattr__(self, name, value):
        original(self, name, value)
        with _lock:
            engine = _state.engine(self)
            if engine is not None:
                _bind_component(value, name, engine)

    cls.__setattr__ = __setattr__


def _unwatch() -> None:
    if _state.original_setattr is not None:
        diffusers_pipelines.pipeline_class().__setattr__ = _state.original_setattr
        _state.original_setattr = None
        memory_exits.close()


def _bind(pipeline) -> None:
    engine = _state.engine(pipeline)
    if engine is not None:
        for name, component in diffusers_pipelines.components(pipeline).items():
            _bind_component(component, name, engine)


def _bind_component(component, name: str, engine: Engine) -> None:
    for site in _sites(component, name):
        routes.attach(site, engine)


def _sites(component, name: str) -> list[Site]:
    import torch

    if not isinstance(component, torch.nn.Module):
        return []
    kind = type(component).__name__
    adapter = plugins.registry().adapter(component)
    if adapter is None:
        _stays(name, kind, "has no adapter and stays on torch; a plugin can add one (register_adapters)")
        return []
    try:
        return list(adapter.sites(component, name))
    except Exception as error:  # noqa: BLE001 - anything may go wrong in a foreign adapter
        _stays(name, kind, f"stays on torch: adapter {adapter.name!r} failed: {refusal(error)}")
        return []


@functools.cache
def _stays(name: str, kind: str, why: str) -> None:
    logger.warning("%s (%s) %s", name, kind, why)
