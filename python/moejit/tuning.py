"""Offline work: tune, bench, verify. What the command's verbs of the same names do, in this process."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import threading
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from ._library import library
from .config import ConfigLike, as_config, json_text
from .errors import Unsupported

_PROGRESS = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_char_p, ctypes.c_void_p)
PathLike = Union[str, "os.PathLike[str]"]


def _function(name: str) -> Any:
    lib = library()
    try:
        function = getattr(lib.c, name)
    except AttributeError:
        raise Unsupported(f"{lib.path} (version {lib.version}) has no {name}: it is older than this package") from None
    function.restype = ctypes.c_int32
    return function


def _request(config: ConfigLike, device: Any, tokens: Optional[Sequence[int]], cache_path: Optional[PathLike],
             num_threads: int, **fields: Any) -> bytes:
    from .kernel import device_name

    request: Dict[str, Any] = {"config": dataclasses.asdict(as_config(config)), "device": device_name(device),
                               "num_threads": num_threads}
    if tokens is not None:
        request["tokens"] = list(tokens)
    if cache_path is not None:
        request["cache_path"] = os.fspath(cache_path)
    request.update({name: value for name, value in fields.items() if value is not None})
    return json_text(request).encode()


def _report(function: Any, *arguments: Any) -> Dict[str, Any]:
    lib = library()
    text = ctypes.c_void_p()
    lib.check(function(*arguments, ctypes.byref(text)))
    return json.loads(lib.take_string(text))


def tune(config: ConfigLike, *, device: Any = "auto", tokens: Optional[Sequence[int]] = None, routing: str = "uniform",
         budget_s: float = 0.0, jobs: int = 0, num_threads: int = 0, max_candidates: int = 0, exhaustive: bool = False,
         force: bool = False, cache_path: Optional[PathLike] = None,
         progress: Optional[Callable[[Dict[str, Any]], Optional[bool]]] = None) -> Dict[str, Any]:
    """Measures schedules for each token count (None: 1, 2, 4, ..., 8192) and keeps the best in the cache.

    routing: "uniform", "zipf:1.2" or "trace:FILE". budget_s: seconds for all together, 0: no limit. What the cache
    knows is not measured again unless `force`. progress receives a dict often (tokens, stage, done, total, best_s,
    remaining_s, ...) on a helper thread; returning False stops after the current measurement. Ctrl-C does that too, and
    then raises KeyboardInterrupt; everything measured is in the cache. Returns {"device", "limits", "rows": [...],
    "cancelled", "failures", "not_kept", "seconds"}; "not_kept" says why the last results are not in the cache (a full
    disk), else "". Takes minutes; raises a subclass of moejit.Error.
    """
    raised: List[BaseException] = []
    stop = threading.Event()

    def forward(text: bytes, _user: object) -> int:
        try:
            if progress is not None and not stop.is_set() and progress(json.loads(text)) is False:
                stop.set()
        except BaseException as error:  # must not be lost in the library
            raised.append(error)
            stop.set()
        return 0 if stop.is_set() else 1

    callback = _PROGRESS(forward)
    function = _function("moejit_tune_json")
    function.argtypes = [ctypes.c_char_p, _PROGRESS, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
    request = _request(config, device, tokens, cache_path, num_threads, routing=routing, budget_s=float(budget_s),
                       jobs=jobs, max_candidates=max_candidates, exhaustive=exhaustive, force=force)
    report = _interruptible(lambda: _report(function, request, callback, None), stop)
    if raised:
        raise raised[0]
    return report


def _interruptible(work: Callable[[], Dict[str, Any]], stop: threading.Event) -> Dict[str, Any]:
    """work() on a thread of its own: Ctrl-C arrives in the main thread, which only does so between lines of Python.
    The first asks the work to stop and waits for that, the second leaves it behind."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    done: List[Any] = []

    def run() -> None:
        try:
            done.append((work(), None))
        except BaseException as error:
            done.append((None, error))

    thread = threading.Thread(target=run, name="moejit-tune", daemon=True)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        stop.set()
        thread.join()
        raise
    report, error = done[0]
    if error is not None:
        raise error
    return report


def bench(config: ConfigLike, *, device: Any = "auto", tokens: Optional[Sequence[int]] = None, routing: str = "uniform",
          samples: int = 20, check: bool = True, num_threads: int = 0,
          cache_path: Optional[PathLike] = None) -> Dict[str, Any]:
    """Times what get_kernel returns, with cold weights: {"device", "limits", "rows": [{"tokens", "median_s", "share",
    "error", ...}]}. share is the limit's time divided by the measured one."""
    function = _function("moejit_bench_json")
    function.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)]
    return _report(function, _request(config, device, tokens, cache_path, num_threads, routing=routing, samples=samples,
                                      check=check))


def verify(config: ConfigLike, *, device: Any = "auto", tokens: Optional[Sequence[int]] = None,
           routings: Optional[Sequence[str]] = None, all_schedules: bool = False, num_threads: int = 0,
           cache_path: Optional[PathLike] = None) -> Dict[str, Any]:
    """Runs kernels on random inputs against float64: {"ok", "rows": [{"tokens", "routing", "error", "tolerance", "ok",
    ...}]}. Does not raise where a result is wrong: look at "ok"."""
    function = _function("moejit_verify_json")
    function.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)]
    return _report(function, _request(config, device, tokens, cache_path, num_threads,
                                      routings=list(routings) if routings else None, all_schedules=all_schedules))
