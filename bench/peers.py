#!/usr/bin/env python3
"""moejit and every peer that is importable, on the same tensors, interleaved, with the limits of the same run.

    python3 bench/peers.py                                              # small defaults for this machine
    python3 bench/peers.py --layers qwen3-30b-a3b,mixtral-8x7b --tokens 1,8,32,128,512,2048 --json out.json --plot out.svg

Needs torch. libmoejit is that of the installed package, or MOEJIT_LIBRARY; the package itself is taken from the checkout
where it is not installed. A peer that fails is a line in the table, and the others go on. Every result is compared with
float64 on sampled tokens before its time counts.

Time: one layer, ids and weights given. On CUDA a sample is one replay of a graph (where the peer cannot be captured,
one call, marked "calls"), between two events, behind a read of twice the L2 and enough waiting to hide the host. On the
CPU it is one call after a read of twice the last cache, wall clock. Ids are drawn over all experts, also where a
layer's router would open some groups of them only. Limit: max(bytes that must move / best streaming
read, operations / best matrix product), both measured here.
"""

import argparse
import os
import platform
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
try:
    import moejit  # noqa: F401
except ImportError:
    sys.path.append(os.path.join(os.path.dirname(HERE), "python"))

import torch  # noqa: E402

import peers_implementations as implementations  # noqa: E402
import peers_report  # noqa: E402

# E, K, H, I as published (data/models.json has the sources), but for layers whose name says otherwise.
LAYERS = {
    "qwen3-30b-a3b": (128, 8, 2048, 768),
    "qwen3-235b-a22b": (128, 8, 4096, 1536),
    "mixtral-8x7b": (8, 2, 4096, 14336),
    "deepseek-v3": (256, 8, 7168, 2048),
    "deepseek-v2-lite": (64, 6, 2048, 1408),
    "olmoe-1b-7b": (64, 8, 2048, 1024),
    "qwen2-57b-a14b": (64, 8, 3584, 2560),
    "qwen2-57b-a14b-top4": (64, 4, 3584, 2560),
    "gpt-oss-120b-plain": (128, 4, 2880, 2880),  # its sizes, without its biases and its activation
    "glm-4.5-air": (128, 8, 4096, 1408),
    "minimax-m2": (256, 8, 3072, 1536),
    "tiny": (8, 2, 256, 512),
}
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def log(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


class Problem:
    """One layer on one device: weights, and what the implementations need to know."""

    def __init__(self, name, sizes, args, device):
        self.name, self.device, self.log = name, device, log
        self.E, self.K, self.H, self.I = sizes
        self.dtype_name, self.dtype = args.dtype, DTYPES[args.dtype]
        self.all_tokens, self.tune_s = args.tokens, args.tune
        self.moejit_device = "cpu" if device.type == "cpu" else f"cuda:{device.index}"
        generator = torch.Generator(device).manual_seed(1)

        def random(*shape, scale):
            # In slices, so that no f32 copy of gigabytes is made.
            out = torch.empty(shape, dtype=self.dtype, device=device)
            for part in out:
                part.copy_(torch.randn(part.shape, generator=generator, device=device).mul_(scale))
            return out

        self.w13 = random(self.E, 2 * self.I, self.H, scale=self.H ** -0.5)
        self.w2 = random(self.E, self.H, self.I, scale=self.I ** -0.5)

    def inputs(self, tokens, routing, seed):
        generator = torch.Generator("cpu").manual_seed(seed)
        x = torch.randn(tokens, self.H, generator=generator).to(self.dtype).to(self.device)
        popularity = torch.ones(self.E)
        if routing.startswith("zipf:"):
            popularity = torch.arange(1, self.E + 1, dtype=torch.float32) ** -float(routing[5:])
            popularity = popularity[torch.randperm(self.E, generator=generator)]
        ids = torch.multinomial(popularity.expand(tokens, -1), self.K, generator=generator).int().to(self.device)
        weights = torch.rand(tokens, self.K, generator=generator)
        weights = (weights / weights.sum(1, keepdim=True)).to(self.device)
        return x, weights, ids

    def floor(self, ids, limits):
        """(seconds, bytes, operations) that no implementation can do without."""
        tokens, size = ids.shape[0], self.w13.element_size()
        touched = int(torch.unique(ids).numel())
        moved = (touched * 3 * self.H * self.I + 2 * tokens * self.H) * size + tokens * self.K * 8
        operations = 2 * tokens * self.K * 3 * self.H * self.I
        return max(moved / limits["read_bytes_per_s"], operations / limits["flops_per_s"]), moved, operations

    def error(self, out, x, weights, ids, samples=8):
        """Relative Frobenius error on sampled tokens, against float64."""
        rows = torch.linspace(0, x.shape[0] - 1, min(samples, x.shape[0])).round().long().tolist()
        wrong = right = 0.0
        for t in rows:
            want = torch.zeros(self.H, dtype=torch.float64, device=x.device)
            for k in range(self.K):
                e = int(ids[t, k])
                gate, up = (self.w13[e].double() @ x[t].double()).chunk(2)
                want += weights[t, k].double() * (self.w2[e].double() @ (torch.nn.functional.silu(gate) * up))
            wrong += float((out[t].double() - want).square().sum())
            right += float(want.square().sum())
        return (wrong / right) ** 0.5 if wrong == wrong else float("inf")


class CpuClock:
    """Wall clock; before each sample the caches are filled with something else."""

    how = "calls"

    def __init__(self):
        self.filler = torch.zeros(2 * last_cache_bytes() // 4)

    def prepare(self, call, right, capturable):
        right(call())
        return call, "calls"

    def sample(self, call):
        self.filler.sum()
        time.sleep(0.004)  # until the threads of whoever ran before have stopped spinning
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin


class CudaClock:
    """Events around a graph's replay, or around a call where no graph can be captured."""

    def __init__(self, device):
        l2 = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 << 20)
        self.filler = torch.zeros(2 * l2 // 4, device=device)
        self.cycles = 400_000

    def prepare(self, call, right, capturable):
        """(what a sample runs, how). `right` raises where an output is wrong: a capture can lose work that the host did."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        if not capturable:
            return call, "calls"
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                out = call()
            for _ in range(3):  # a count that the capture adds to is right once
                out.fill_(float("nan"))
                graph.replay()
                torch.cuda.synchronize()
                right(out)
            return graph.replay, "graph"
        except Exception:
            torch.cuda.synchronize()
            right(call())
            torch.cuda.synchronize()
            return call, "calls"

    def sample(self, call):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.filler.sum()
        torch.cuda._sleep(self.cycles)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3


def last_cache_bytes():
    """The largest cache that Linux reports, else 32 MiB."""
    best, place = 32 << 20, "/sys/devices/system/cpu/cpu0/cache"
    try:
        for index in os.listdir(place):
            path = os.path.join(place, index, "size")
            if os.path.exists(path):
                with open(path, encoding="ascii") as file:
                    text = file.read().strip()
                best = max(best, int(text[:-1]) << {"K": 10, "M": 20}.get(text[-1], 0))
    except (OSError, ValueError):
        pass
    return min(best, 512 << 20)


def best_time(clock, call, samples):
    call()
    return min(clock.sample(call) for _ in range(samples))


def measure_limits(device, clock, dtype):
    """The best streaming read and the best matrix product of a few ways and sizes."""
    reads, products = {}, {}
    if device.type == "cuda":
        size = min(4 << 30, torch.cuda.mem_get_info(device)[0] // 4) // 16384 * 16384
        data = torch.zeros(size // 4, dtype=torch.int32, device=device)
        reads["torch sum"] = size / best_time(clock, lambda: data.view(torch.float32).sum(), 10)
        try:
            import peers_triton

            sink = torch.zeros(1, dtype=torch.int32, device=device)
            units = torch.cuda.get_device_properties(device).multi_processor_count
            for programs in (units * 4, units * 8, units * 16):
                call = lambda: peers_triton.read_once(data, sink, programs)
                reads[f"triton, {programs} programs"] = size / best_time(clock, call, 10)
        except Exception as error:
            log(f"limits: no Triton read: {error!r:.120}")
        del data
        sizes = (4096, 8192)
    else:
        data = torch.zeros(max(4 * last_cache_bytes(), 256 << 20) // 4)
        reads["torch sum"] = data.numel() * 4 / best_time(clock, lambda: data.sum(), 6)
        whole = data.view(-1, 4096)
        vector = torch.zeros(4096)
        reads["torch mv"] = data.numel() * 4 / best_time(clock, lambda: whole @ vector, 6)
        sizes = (1024, 2048)
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        products[f"{size}^3"] = 2 * size ** 3 / best_time(clock, lambda: a @ b, 8)
    return {"read_bytes_per_s": max(reads.values()), "flops_per_s": max(products.values()), "reads": reads,
            "products": products}


def build_peers(problem, names):
    """(name, make) of each peer, and the reason of each that is not there."""
    built, missing = {}, {}
    lost = lost_peers()
    for name in names:
        if name in lost:
            missing[name] = f"lost the CUDA context: {lost[name]}"
            continue
        try:
            begin = time.perf_counter()
            built[name] = implementations.PEERS[name](problem)
            log(f"{problem.name}: {name} ready in {time.perf_counter() - begin:.1f} s")
        except Exception as error:
            missing[name] = reason(error)
            log(f"{problem.name}: {name}: {missing[name]}")
    return built, missing


def reason(error):
    text = str(error).strip().splitlines()
    text = text[0] if text else ""
    return text[:160] if isinstance(error, implementations.Unavailable) else f"{type(error).__name__}: {text[:160]}"


def leave_if_lost(device, name, note):
    """A fault on the GPU ends the context for the whole process: the run begins again, in a new one, without that peer."""
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize()
    except Exception:
        log(f"{name} has lost the CUDA context ({note}): beginning again without it")
        os.environ["MOEJIT_PEERS_LOST"] = "\n".join(filter(None, [os.environ.get("MOEJIT_PEERS_LOST"), f"{name}\t{note}"]))
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.argv])


def lost_peers():
    """Peers that ended an earlier try of this run, and what they said."""
    return dict(line.split("\t", 1) for line in os.environ.get("MOEJIT_PEERS_LOST", "").splitlines())


def measure(problem, built, tokens, args, clock, limits):
    x, weights, ids = problem.inputs(tokens, args.routing, 1000 + tokens)
    floor, moved, operations = problem.floor(ids, limits)
    rows, ready = {}, {}
    for name, make in built.items():
        row = {"layer": problem.name, "tokens": tokens, "routing": args.routing, "peer": name, "median_s": None,
               "p20_s": None, "p80_s": None, "samples": 0, "floor_s": floor, "bytes": moved, "flops": operations,
               "share": None, "versus_moejit": None, "error": None, "how": "", "note": ""}
        rows[name] = row
        try:
            with torch.inference_mode():
                call = make(x, problem.w13, problem.w2, weights, ids)

                def right(out):
                    row["error"] = problem.error(out, x, weights, ids)
                    if not row["error"] <= args.tolerance:
                        raise ArithmeticError(f"wrong result: relative error {row['error']:.2e}")

                right(call())
                run, row["how"] = clock.prepare(call, right, name not in implementations.SYNCHRONISING)
                # With the call itself: it holds the output, which a graph only points to.
                ready[name] = (run, [], call)
        except Exception as error:
            row["note"] = reason(error)
            leave_if_lost(problem.device, name, row["note"])
    begin = time.perf_counter()
    with torch.inference_mode():
        for turn in range(args.samples):
            names = list(ready)
            names = names[turn % len(names):] + names[:turn % len(names)] if names else []
            for name in names:
                try:
                    ready[name][1].append(clock.sample(ready[name][0]))
                except Exception as error:
                    rows[name]["note"] = reason(error)
                    del ready[name]
                    leave_if_lost(problem.device, name, rows[name]["note"])
            if turn >= 4 and time.perf_counter() - begin > args.seconds:
                break
    for name, (_, times, _) in ready.items():
        times.sort()
        at = lambda share: times[min(int(share * len(times)), len(times) - 1)]
        rows[name].update(median_s=at(0.5), p20_s=at(0.2), p80_s=at(0.8), samples=len(times), share=floor / at(0.5))
    ours = rows.get("moejit", {}).get("median_s")
    for row in rows.values():
        if ours and row["median_s"]:
            row["versus_moejit"] = row["median_s"] / ours
    return list(rows.values())


def parse_tokens(text):
    counts = []
    for part in text.split(","):
        first, _, last = part.partition(":")
        if not last:
            counts.append(int(first))
            continue
        count = int(first)
        while count <= int(last):
            counts.append(count)
            count *= 2
    return sorted(set(counts))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", help=f"comma-separated: {', '.join(LAYERS)}, or E:K:H:I")
    parser.add_argument("--tokens", type=parse_tokens, help="1,8,32 or 1:8192 for powers of two")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bf16", choices=list(DTYPES))
    parser.add_argument("--routing", default="uniform", help="uniform or zipf:S")
    parser.add_argument("--peers", help=f"comma-separated, default all: {', '.join(implementations.PEERS)}")
    parser.add_argument("--samples", type=int, default=30, help="of each peer and token count, at most")
    parser.add_argument("--seconds", type=float, default=10, help="of each token count, about")
    parser.add_argument("--tune", type=float, default=0, metavar="SECONDS", help="tune moejit first, per layer")
    parser.add_argument("--tolerance", type=float, default=0.02, help="relative error that still counts")
    parser.add_argument("--threads", type=int, default=0, help="of torch on the CPU")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE", help="an SVG file")
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda:0" if torch.cuda.is_available() else "cpu"
    on_gpu = args.device.startswith("cuda")
    args.layers = (args.layers or ("qwen3-30b-a3b" if on_gpu else "tiny")).split(",")
    for layer in args.layers:
        layer_sizes(layer)  # a wrong one ends it before anything is measured
    args.tokens = args.tokens or ([1, 8, 32, 128, 512, 2048] if on_gpu else [1, 8, 32])
    args.peers = args.peers.split(",") if args.peers else list(implementations.PEERS)
    for name in args.peers:
        if name not in implementations.PEERS:
            parser.error(f"--peers: {name!r} is not one of {', '.join(implementations.PEERS)}")
    return args


def layer_sizes(layer):
    """E, K, H, I of a name or of E:K:H:I."""
    if layer in LAYERS:
        return LAYERS[layer]
    sizes = layer.split(":")
    if len(sizes) != 4 or not all(size.isdigit() for size in sizes):
        raise SystemExit(f"peers.py: --layers: {layer!r} is neither E:K:H:I nor one of {', '.join(LAYERS)}")
    return tuple(int(size) for size in sizes)


def main():
    args = arguments()
    device = torch.device(args.device)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    elif args.threads:
        torch.set_num_threads(args.threads)
    clock = CudaClock(device) if device.type == "cuda" else CpuClock()
    limits = measure_limits(device, clock, DTYPES[args.dtype])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, " \
        f"{torch.get_num_threads()} threads"
    report = {"schema": 1, "device": name, "dtype": args.dtype, "limits": limits, "rows": [], "missing": {},
              "arguments": {key: value for key, value in vars(args).items() if key not in ("json", "plot")}}
    print(f"{name}: read {limits['read_bytes_per_s'] * 1e-9:.0f} GB/s, {args.dtype} product "
          f"{limits['flops_per_s'] * 1e-12:.2f} TFLOP/s")
    failed = False
    for layer in args.layers:
        try:
            sizes = layer_sizes(layer)
            problem = Problem(layer, sizes, args, device)
        except Exception as error:
            log(f"{layer}: {error!r:.200}")
            failed = True
            continue
        built, report["missing"][layer] = build_peers(problem, args.peers)
        for tokens in args.tokens:
            rows = measure(problem, built, tokens, args, clock, limits)
            report["rows"] += rows
            report["versions"] = implementations.versions()
            print(f"\n{layer} E={problem.E} K={problem.K} H={problem.H} I={problem.I} {args.dtype} T={tokens}: limit "
                  f"{peers_report.duration(rows[0]['floor_s']) if rows else '-'}")
            peers_report.print_table(rows)
            sys.stdout.flush()
            if args.json:  # after each point: a run that is cut off leaves what it has
                peers_report.write_json(args.json, report)
        del problem, built
        if device.type == "cuda":
            torch.cuda.empty_cache()
    peers_report.print_summary(report["rows"])
    for layer, missing in report["missing"].items():
        if missing:
            print(f"\n{layer}: not measured: " +
                  "; ".join(f"{peer} ({why})" for peer, why in missing.items()))
    if args.json:
        peers_report.write_json(args.json, report)
    if args.plot:
        peers_report.write_plot(args.plot, report)
    return 1 if failed or not report["rows"] else 0


if __name__ == "__main__":
    sys.exit(main())
