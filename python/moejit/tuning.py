"""Offline work: tune, bench, verify. What the command's verbs of the same names do, in this process."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from ._library import library
from .config import ConfigLike, as_config
from .errors import Cancelled, Unsupported

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
    return json.dumps(request).encode()


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
    remaining_s, ...); returning False stops after the current measurement. Ctrl-C does that too, and then raises
    KeyboardInterrupt; everything measured is in the cache. Returns {"device", "limits", "rows": [...], "cancelled",
    "seconds"}. Takes minutes; raises a subclass of moejit.Error.
    """
    raised: List[BaseException] = []

    def forward(text: bytes, _user: object) -> int:
        try:
            if progress is None:  # running a line of Python is what lets Ctrl-C arrive
                return 1
            return 0 if progress(json.loads(text)) is False else 1
        except BaseException as error:  # must not be lost in the library
            raised.append(error)
            return 0

    callback = _PROGRESS(forward)
    function = _function("moejit_tune_json")
    function.argtypes = [ctypes.c_char_p, _PROGRESS, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
    request = _request(config, device, tokens, cache_path, num_threads, routing=routing, budget_s=float(budget_s),
                       jobs=jobs, max_candidates=max_candidates, exhaustive=exhaustive, force=force)
    try:
        report = _report(function, request, callback, None)
    except Cancelled:
        if not raised:
            raise
        report = {}
    if raised:
        raise raised[0]
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
