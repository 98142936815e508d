"""Build backend (PEP 517, 660) of the wheels `moejit` and `moejit-cpu`: CMake builds, this packs. Needs nothing from an index.

Settings, `pip install . --config-settings=NAME=VALUE`:
  build-dir   the CMake build tree (default: build-wheel or build-wheel-cpu in the checkout)
  prebuilt    1: take what lies in build-dir, build nothing
  cmake-args  further arguments for CMake, separated by spaces
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PYTHON = os.path.join(ROOT, "python")

SUMMARY = {
    "moejit": "Fused Mixture-of-Experts kernels, generated, compiled, tuned and cached at run time",
    "moejit-cpu": "The compiler of CPU kernels for moejit: Clang and LLVM, with the libraries that they need",
}
REQUIRES = {
    "moejit": ["moejit-cpu=={version}; extra == 'cpu'", "numpy; extra == 'numpy'", "torch>=2.4; extra == 'torch'",
               "transformers>=5.0; extra == 'transformers'"],
    "moejit-cpu": [],
}
ENTRY_POINTS = """[console_scripts]
moejit = moejit.__main__:main

[sglang.srt.plugins]
moejit = moejit.integrations.sglang:register

[vllm.general_plugins]
moejit = moejit.integrations.vllm:register
"""
# What every Linux with glibc has, and must not come twice into a process.
SYSTEM_LIBRARIES = re.compile(r"^(linux-vdso|ld-linux.*|lib(c|m|dl|rt|pthread|resolv|gcc_s|stdc\+\+))\.so")


def version():
    with open(os.path.join(ROOT, "CMakeLists.txt"), encoding="utf-8") as file:
        return re.search(r"project\(moejit VERSION ([0-9.]+)", file.read()).group(1)


def tag():
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return f"py3-none-{platform}"


class Settings:
    def __init__(self, given, name):
        given = dict(given or {})
        default = "build-wheel" if name == "moejit" else "build-wheel-cpu"
        self.build_dir = os.path.abspath(given.pop("build-dir", os.path.join(ROOT, default)))
        self.prebuilt = given.pop("prebuilt", "0") not in ("0", "", "no", "off")
        arguments = given.pop("cmake-args", "")
        self.cmake_args = arguments if isinstance(arguments, list) else arguments.split()
        unknown = [key for key in given if not key.startswith("--")]  # pip passes --global-option and its like
        if unknown:
            raise SystemExit(f"moejit: no such build setting: {unknown[0]}; there are build-dir, prebuilt, cmake-args")


def run(*command):
    print("+", " ".join(command), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def configure_and_build(settings, target, *definitions):
    if settings.prebuilt:
        return
    command = ["cmake", "-S", ROOT, "-B", settings.build_dir, "-DCMAKE_BUILD_TYPE=Release", "-DMOEJIT_BUILD_TESTS=OFF",
               "-DMOEJIT_BUILD_BENCH=OFF", *definitions]
    if shutil.which("ninja") and not os.path.exists(os.path.join(settings.build_dir, "CMakeCache.txt")):
        command += ["-G", "Ninja"]
    if shutil.which("ccache"):
        command += ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"]
    run(*command, *settings.cmake_args)
    run("cmake", "--build", settings.build_dir, "--target", target, "--parallel", str(os.cpu_count() or 1))


class Wheel:
    """A wheel that is being written, with its RECORD."""

    def __init__(self, directory, name, wheel_tag):
        self.name, self.base = name, f"{name.replace('-', '_')}-{version()}"
        self.file = f"{self.base}-{wheel_tag}.whl"
        self.info = self.base + ".dist-info"
        self.tag = wheel_tag
        self.records = []
        self.zip = zipfile.ZipFile(os.path.join(directory, self.file), "w", zipfile.ZIP_DEFLATED)

    def add(self, path, data, executable=False):
        entry = zipfile.ZipInfo(path, date_time=(2020, 1, 1, 0, 0, 0))  # the same input gives the same bytes
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = (0o100755 if executable else 0o100644) << 16
        self.zip.writestr(entry, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self.records.append(f"{path},sha256={digest},{len(data)}")

    def add_file(self, path, source, executable=False):
        with open(source, "rb") as file:
            self.add(path, file.read(), executable)

    def add_package(self, package):
        source = os.path.join(PYTHON, package)
        for folder, folders, files in sorted(os.walk(source)):
            folders[:] = sorted(f for f in folders if f not in ("__pycache__", "lib", "bin"))
            for name in sorted(files):
                if name.endswith((".py", "py.typed")):
                    path = os.path.join(folder, name)
                    self.add_file(os.path.relpath(path, PYTHON), path)

    def close(self):
        for path, text in metadata_files(self.name, self.tag).items():
            self.add(f"{self.info}/{path}", text.encode())
        self.add_file(f"{self.info}/licenses/LICENSE", os.path.join(ROOT, "LICENSE"))
        self.records.append(f"{self.info}/RECORD,,")
        self.zip.writestr(f"{self.info}/RECORD", "\n".join(self.records) + "\n")
        self.zip.close()
        return self.file


def metadata_files(name, wheel_tag):
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version()}", f"Summary: {SUMMARY[name]}",
             "License: Apache-2.0", "License-File: LICENSE", "Requires-Python: >=3.9"]
    lines += [f"Provides-Extra: {extra}" for extra in ("cpu", "numpy", "torch", "transformers") if name == "moejit"]
    lines += ["Requires-Dist: " + requirement.format(version=version()) for requirement in REQUIRES[name]]
    text = "\n".join(lines) + "\n"
    if name == "moejit":
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            text += "Description-Content-Type: text/markdown\n\n" + file.read()
    wheel = f"Wheel-Version: 1.0\nGenerator: moejit_build\nRoot-Is-Purelib: false\nTag: {wheel_tag}\n"
    files = {"METADATA": text, "WHEEL": wheel}
    if name == "moejit":
        files["entry_points.txt"] = ENTRY_POINTS
    return files


def write_metadata(directory, name):
    """The dist-info folder alone, which pip wants before it asks for the wheel."""
    info = f"{name.replace('-', '_')}-{version()}.dist-info"
    os.makedirs(os.path.join(directory, info), exist_ok=True)
    for path, text in metadata_files(name, tag()).items():
        with open(os.path.join(directory, info, path), "w", encoding="utf-8") as file:
            file.write(text)
    return info


def stripped(path):
    """The bytes of a binary without its symbol table, where binutils are there."""
    strip = shutil.which("strip")
    if strip is None:
        with open(path, "rb") as file:
            return file.read()
    done = subprocess.run([strip, "--strip-unneeded", "-o", "/dev/stdout", path], stdout=subprocess.PIPE, check=False)
    if done.returncode == 0 and done.stdout[:4] == b"\x7fELF":
        return done.stdout
    with open(path, "rb") as file:
        return file.read()


def static_sqlite():
    """Debian's archive of SQLite, so that the wheel needs none of the machine that it is installed on."""
    done = subprocess.run(["cc", "-print-file-name=libsqlite3.a"], capture_output=True, text=True, check=False)
    path = done.stdout.strip()
    return [f"-DSQLite3_LIBRARY={path}"] if os.path.isabs(path) and os.path.exists(path) else []


def build_core(settings):
    configure_and_build(settings, "all", "-DMOEJIT_BUILD_CPU_MODULE=OFF", "-DMOEJIT_BUILD_TOOLS=ON", *static_sqlite())


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    return write_metadata(metadata_directory, "moejit")


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    settings = Settings(config_settings, "moejit")
    build_core(settings)
    wheel = Wheel(wheel_directory, "moejit", tag())
    wheel.add_package("moejit")
    wheel.add("moejit/lib/libmoejit.so", stripped(os.path.realpath(os.path.join(settings.build_dir, "libmoejit.so"))), True)
    wheel.add("moejit/bin/moejit", stripped(os.path.join(settings.build_dir, "moejit")), True)
    # The process in which hiprtc runs: where the library and the command both look for it.
    wheel.add("moejit/lib/moejit/moejit_hiprtc",
              stripped(os.path.join(settings.build_dir, "backends", "hip", "helper", "moejit_hiprtc")), True)
    return wheel.close()


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """The package is that of the checkout, the library that of the build tree."""
    settings = Settings(config_settings, "moejit")
    build_core(settings)
    wheel = Wheel(wheel_directory, "moejit", tag())
    library = os.path.join(settings.build_dir, "libmoejit.so")
    wheel.add("moejit_editable.pth",
              f"{PYTHON}\nimport os; os.environ.setdefault('MOEJIT_LIBRARY', {library!r})\n".encode())
    return wheel.close()


def needed_libraries(path):
    """Every library that `path` loads, directly or not, without those of the system: name -> file."""
    text = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*(\S+) => (\S+) \(", line)
        if match and not SYSTEM_LIBRARIES.match(match.group(1)):
            found[match.group(1)] = os.path.realpath(match.group(2))
        elif "not found" in line:
            raise SystemExit(f"moejit-cpu: {path}: {line.strip()}")
    return found


def license_of(path):
    """Debian's record of the terms of the package that a library is from, or None."""
    done = subprocess.run(["dpkg", "-S", path], capture_output=True, text=True, check=False) \
        if shutil.which("dpkg") else None
    if done is None or done.returncode != 0:
        return None
    package = done.stdout.split(":")[0]
    text = f"/usr/share/doc/{package}/copyright"
    return (package, text) if os.path.exists(text) else None


def build_cpu_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    settings = Settings(config_settings, "moejit-cpu")
    # Beside each other in the wheel. The old kind of tag is inherited by the libraries that these load in turn.
    configure_and_build(settings, "moejit_cpu", "-DMOEJIT_BUILD_CPU_MODULE=ON", "-DMOEJIT_BUILD_TOOLS=OFF",
                        "-DCMAKE_MODULE_LINKER_FLAGS=-Wl,--disable-new-dtags", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
                        "-DCMAKE_INSTALL_RPATH=$ORIGIN")
    module = os.path.join(settings.build_dir, "backends", "cpu", "module", "libmoejit_cpu.so")
    environment = dict(os.environ)
    libraries = {}
    try:
        llvm = subprocess.run(["llvm-config-19", "--libdir"], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        llvm = ""
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [llvm or "/usr/lib/llvm-19/lib",
                                                                  environment.get("LD_LIBRARY_PATH")]))
    try:
        libraries = needed_libraries(module)
    finally:
        os.environ.clear()
        os.environ.update(environment)
    wheel = Wheel(wheel_directory, "moejit-cpu", tag())
    wheel.add_file("moejit_cpu/__init__.py", os.path.join(PYTHON, "cpu", "moejit_cpu.py"))
    wheel.add("moejit_cpu/lib/libmoejit_cpu.so", stripped(module), True)
    terms = {}
    for name, path in sorted(libraries.items()):
        print(f"moejit-cpu: with {name} from {path}", file=sys.stderr)
        wheel.add(f"moejit_cpu/lib/{name}", stripped(path), True)
        found = license_of(path)
        if found:
            terms[found[0]] = found[1]
    for package, text in sorted(terms.items()):
        wheel.add_file(f"{wheel.info}/licenses/{package}.txt", text)
    return wheel.close()


def build_sdist(sdist_directory, config_settings=None):
    name = f"moejit-{version()}"
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        raise SystemExit("moejit: a source archive is made of what git knows, and this is no git checkout")
    target = os.path.join(sdist_directory, name + ".tar.gz")
    with tarfile.open(target, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(filter(None, listed.stdout.split("\0"))):
            archive.add(os.path.join(ROOT, path), f"{name}/{path}")
        info = os.path.join(sdist_directory, "PKG-INFO")
        with open(info, "w", encoding="utf-8") as file:
            file.write(metadata_files("moejit", tag())["METADATA"])
        archive.add(info, f"{name}/PKG-INFO")
        os.remove(info)
    return name + ".tar.gz"


def get_requires_for_build_wheel(config_settings=None):
    return [] if shutil.which("cmake") else ["cmake>=3.22"]


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings=None):
    return []
