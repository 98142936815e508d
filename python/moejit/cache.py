"""The cache of compiled kernels and tuned choices, through the command (docs/cli.md has the members of each answer)."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Union

from ._command import run, run_json
from .errors import NotFound

PathLike = Union[str, "os.PathLike[str]"]


def _place(cache_path: Optional[PathLike]) -> List[str]:
    return ["--cache-dir", os.fspath(cache_path)] if cache_path is not None else []


def path(cache_path: Optional[PathLike] = None) -> str:
    """The cache's directory."""
    return run_json(["cache", "path", *_place(cache_path)])["rows"][0]["path"]


def ls(kind: Optional[str] = None, cache_path: Optional[PathLike] = None) -> List[Dict[str, Any]]:
    """Its entries; kind: "kernel", "choice" or None for both. Empty where there is no cache."""
    more = ["--kind", kind] if kind else []
    try:
        return run_json(["cache", "ls", *more, *_place(cache_path)]).get("rows", [])
    except NotFound:
        return []


def show(key: str, cache_path: Optional[PathLike] = None) -> Dict[str, Any]:
    """One entry in full, by the beginning of its key; NotFound where there is none."""
    return run_json(["cache", "show", key, *_place(cache_path)])


def stats(cache_path: Optional[PathLike] = None) -> Dict[str, Any]:
    """Sizes and counts."""
    return run_json(["cache", "stats", *_place(cache_path)])


def verify(repair: bool = False, cache_path: Optional[PathLike] = None) -> Dict[str, Any]:
    """Checks every kernel against its hash; VerificationFailed where one is damaged."""
    return run_json(["cache", "verify", *(["--repair"] if repair else []), *_place(cache_path)])


def clear(cache_path: Optional[PathLike] = None) -> None:
    """Deletes everything."""
    run(["cache", "clear", "--yes", *_place(cache_path)])


def gc(max_size: Optional[str] = None, older_than: Optional[str] = None, losers: bool = False, dry_run: bool = False,
       cache_path: Optional[PathLike] = None) -> Dict[str, Any]:
    """Deletes kernels that are not used: max_size "2G", older_than "30d", losers of a tuning."""
    more = ["--max-size", max_size] if max_size else []
    more += ["--older-than", older_than] if older_than else []
    more += ["--losers"] * losers + ["--dry-run"] * dry_run
    return run_json(["cache", "gc", "--yes", *more, *_place(cache_path)])


def pack(file: PathLike, cache_path: Optional[PathLike] = None) -> None:
    """Writes choices and kernels to one file that can be shipped (MOEJIT_CACHE_PATH) or merged."""
    run(["cache", "pack", os.fspath(file), *_place(cache_path)])


def merge(source: PathLike, sha256: Optional[str] = None, cpu_code: bool = False,
          cache_path: Optional[PathLike] = None) -> None:
    """Takes in a pack or another cache's directory. cpu_code also takes machine code, which then runs in your
    processes: only from a source that you trust."""
    more = ["--sha256", sha256] if sha256 else []
    more += ["--cpu-code"] * cpu_code
    run(["cache", "merge", os.fspath(source), *more, *_place(cache_path)])
