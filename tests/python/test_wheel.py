"""The wheel that the build backend packs, from the build tree under test: contents, and that it works where it lands."""

import base64
import csv
import hashlib
import os
import subprocess
import sys
import zipfile

import pytest

import moejit

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "python", "build"))

import moejit_build  # noqa: E402


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    tree = os.path.dirname(os.path.realpath(moejit._library.library().path))
    if not os.path.exists(os.path.join(tree, "moejit")):
        pytest.skip("the library is in no build tree with the command beside it")
    place = tmp_path_factory.mktemp("wheel")
    name = moejit_build.build_wheel(str(place), {"build-dir": tree, "prebuilt": "1"})
    return place / name


def test_contents(wheel):
    assert wheel.name == f"moejit-{moejit_build.version()}-{moejit_build.tag()}.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = f"moejit-{moejit_build.version()}.dist-info"
        for wanted in ("moejit/__init__.py", "moejit/py.typed", "moejit/lib/libmoejit.so", "moejit/bin/moejit",
                       "moejit/lib/moejit/moejit_hiprtc", "moejit/integrations/transformers.py", f"{info}/METADATA", f"{info}/licenses/LICENSE"):
            assert wanted in names
        assert not any("__pycache__" in name for name in names)
        records = {row[0]: row[1:] for row in csv.reader(archive.read(f"{info}/RECORD").decode().splitlines())}
        assert set(records) == set(names)
        for name in names:
            if name != f"{info}/RECORD":
                data = archive.read(name)
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                assert records[name] == [f"sha256={digest}", str(len(data))]
        assert archive.getinfo("moejit/bin/moejit").external_attr >> 16 & 0o111
        metadata = archive.read(f"{info}/METADATA").decode()
        assert "Requires-Python: >=3.9" in metadata and "moejit-cpu==" in metadata


def test_metadata_is_that_of_the_wheel(wheel, tmp_path):
    """pip asks for it first, and must get it without a build."""
    info = moejit_build.prepare_metadata_for_build_wheel(str(tmp_path))
    with zipfile.ZipFile(wheel) as archive:
        for name in ("METADATA", "WHEEL", "entry_points.txt"):
            assert archive.read(f"{info}/{name}").decode() == (tmp_path / info / name).read_text(encoding="utf-8")


def test_it_works_where_it_lands(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for program in ("bin/moejit", "lib/moejit/moejit_hiprtc"):  # as pip does
        os.chmod(tmp_path / "moejit" / program, 0o755)
    env = {key: value for key, value in os.environ.items() if not key.startswith("MOEJIT")}
    env.update(PYTHONPATH=str(tmp_path), MOEJIT_CACHE_DIR=str(tmp_path / "cache"))
    code = "import moejit; print(moejit.version(), moejit._library.library().path); print(moejit.cache.path())"
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert str(tmp_path / "moejit" / "lib" / "libmoejit.so") in done.stdout, done.stderr
    assert str(tmp_path / "cache") in done.stdout
    done = subprocess.run([sys.executable, "-m", "moejit", "version"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and moejit.version() in done.stdout
    done = subprocess.run([sys.executable, "-m", "moejit", "doctor"], env=env, capture_output=True, text=True, check=False)
    assert "hiprtc" in done.stdout and "is not beside the library" not in done.stdout, done.stdout


def test_settings_that_do_not_exist():
    with pytest.raises(SystemExit, match="build-dri"):
        moejit_build.Settings({"build-dri": "x"}, "moejit")
