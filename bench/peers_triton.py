"""A fused MoE in Triton, written for the comparison: align, two grouped products, reduction, with a small autotune."""

import os

import torch
import triton
import triton.language as tl


@triton.jit
def count_kernel(ids, starts, cursor, block_expert, num_blocks, S, E: tl.constexpr, E2: tl.constexpr, BM: tl.constexpr,
                 CHUNK: tl.constexpr):
    """One program: rows per expert, padded to BM; where each expert begins; which expert each block belongs to."""
    experts = tl.arange(0, E2)
    counts = tl.zeros([E2], tl.int32)
    for begin in range(0, S, CHUNK):
        at = begin + tl.arange(0, CHUNK)
        id_ = tl.load(ids + at, mask=at < S, other=-1)
        mine = (id_ >= 0) & (id_ < E)
        # What is not mine lands in the last bin, which is no expert's as E2 > E.
        counts += tl.histogram(tl.where(mine, id_, E2 - 1), E2)
    blocks = tl.where(experts < E, (counts + BM - 1) // BM, 0)
    ends = tl.cumsum(blocks, 0)
    begins = ends - blocks
    tl.store(starts + experts, begins * BM, mask=experts < E)
    tl.store(cursor + experts, tl.zeros([E2], tl.int32), mask=experts < E)
    total = tl.sum(blocks, 0)
    tl.store(num_blocks, total)
    longest = tl.max(blocks, 0)
    for i in range(0, longest):
        tl.store(block_expert + begins + i, experts, mask=(i < blocks) & (experts < E))


@triton.jit
def place_kernel(ids, starts, cursor, slots, S, E: tl.constexpr, CHUNK: tl.constexpr):
    """Each (token, k) takes the next row of its expert."""
    at = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    id_ = tl.load(ids + at, mask=at < S, other=-1)
    mine = (id_ >= 0) & (id_ < E)
    row = tl.atomic_add(cursor + id_, 1, mask=mine, sem="relaxed")
    start = tl.load(starts + id_, mask=mine, other=0)
    tl.store(slots + start + row, at, mask=mine)


@triton.jit
def up_kernel(x, w, slots, block_expert, num_blocks, h, S, K: tl.constexpr, H: tl.constexpr, I: tl.constexpr,
              BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """h[slot, n] = silu(x @ gate) * (x @ up)."""
    pid_n, pid_m = tl.program_id(0), tl.program_id(1)
    if pid_m >= tl.load(num_blocks):
        return
    expert = tl.load(block_expert + pid_m).to(tl.int64)
    slot = tl.load(slots + pid_m * BM + tl.arange(0, BM))
    real = slot < S
    n = pid_n * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    a = x + (slot // K).to(tl.int64)[:, None] * H + k[None, :]
    b = w + expert * (2 * I * H) + n.to(tl.int64)[None, :] * H + k[:, None]
    inside = n[None, :] < I
    gate = tl.zeros([BM, BN], tl.float32)
    up = tl.zeros([BM, BN], tl.float32)
    for begin in range(0, H, BK):
        if H % BK == 0 and I % BN == 0:  # decided at compile time: plain loads where nothing sticks out
            at = tl.load(a, mask=real[:, None], other=0.0)
            g = tl.load(b)
            u = tl.load(b + I * H)
        else:
            left = k < H - begin
            at = tl.load(a, mask=real[:, None] & left[None, :], other=0.0)
            g = tl.load(b, mask=inside & left[:, None], other=0.0)
            u = tl.load(b + I * H, mask=inside & left[:, None], other=0.0)
        gate = tl.dot(at, g, gate)
        up = tl.dot(at, u, up)
        a += BK
        b += BK
    value = gate * tl.sigmoid(gate) * up
    tl.store(h + slot.to(tl.int64)[:, None] * I + n[None, :], value.to(h.dtype.element_ty), mask=real[:, None] & inside)


@triton.jit
def down_kernel(h, w, slots, block_expert, num_blocks, weights, y, S, H: tl.constexpr, I: tl.constexpr,
                BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """y[slot, n] = weight[slot] * (h @ w2)."""
    pid_n, pid_m = tl.program_id(0), tl.program_id(1)
    if pid_m >= tl.load(num_blocks):
        return
    expert = tl.load(block_expert + pid_m).to(tl.int64)
    slot = tl.load(slots + pid_m * BM + tl.arange(0, BM))
    real = slot < S
    n = pid_n * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    a = h + slot.to(tl.int64)[:, None] * I + k[None, :]
    b = w + expert * (H * I) + n.to(tl.int64)[None, :] * I + k[:, None]
    inside = n[None, :] < H
    sum_ = tl.zeros([BM, BN], tl.float32)
    for begin in range(0, I, BK):
        if I % BK == 0 and H % BN == 0:
            at = tl.load(a, mask=real[:, None], other=0.0)
            bt = tl.load(b)
        else:
            left = k < I - begin
            at = tl.load(a, mask=real[:, None] & left[None, :], other=0.0)
            bt = tl.load(b, mask=inside & left[:, None], other=0.0)
        sum_ = tl.dot(at, bt, sum_)
        a += BK
        b += BK
    weight = tl.load(weights + slot, mask=real, other=0.0)
    tl.store(y + slot.to(tl.int64)[:, None] * H + n[None, :], (sum_ * weight[:, None]).to(y.dtype.element_ty),
             mask=real[:, None] & inside)


@triton.jit
def sum_kernel(y, ids, out, E: tl.constexpr, K: tl.constexpr, H: tl.constexpr, BN: tl.constexpr):
    """out[t] = sum over k, of the slots that are mine."""
    t = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    total = tl.zeros([BN], tl.float32)
    for k in tl.static_range(K):
        id_ = tl.load(ids + t * K + k)
        mine = (id_ >= 0) & (id_ < E)
        total += tl.load(y + (t * K + k) * H + n, mask=mine & (n < H), other=0.0).to(tl.float32)
    tl.store(out + t * H + n, total.to(out.dtype.element_ty), mask=n < H)


# (BN, BK, warps, stages) by the number of rows of a block; few, so that a run ends.
CONFIGS = {
    16: [(64, 128, 4, 3), (64, 128, 4, 5), (128, 128, 4, 3), (32, 256, 4, 3), (64, 256, 4, 3), (128, 64, 4, 4)],
    32: [(64, 128, 4, 4), (128, 64, 4, 4), (128, 128, 4, 3), (64, 64, 4, 4)],
    64: [(64, 128, 4, 4), (128, 64, 4, 4), (128, 64, 8, 4), (128, 128, 8, 3)],
    128: [(128, 64, 8, 3), (128, 64, 8, 4), (64, 64, 4, 4), (256, 64, 8, 3)],
}


class FusedMoe:
    """Buffers and the tuned configurations of one layer for up to `tokens` tokens."""

    def __init__(self, experts, top_k, hidden, inner, tokens, dtype, device, log=lambda text: None):
        self.E, self.K, self.H, self.I = experts, top_k, hidden, inner
        self.log = log
        pairs = tokens * top_k
        new = lambda shape, kind=torch.int32: torch.empty(shape, dtype=kind, device=device)
        most = (pairs + min(pairs, experts) * 127) // 16 + 1
        self.starts, self.cursor, self.num_blocks = new(experts), new(experts), new(1)
        self.block_expert, self.slots = new(most), new(pairs + min(pairs, experts) * 128)
        self.h, self.y = new((pairs, inner), dtype), new((pairs, hidden), dtype)
        self.tuned = {}

    def align(self, ids, bm):
        pairs = ids.numel()
        blocks = (pairs + min(pairs, self.E) * (bm - 1)) // bm
        self.slots[:blocks * bm].fill_(pairs)
        count_kernel[(1,)](ids, self.starts, self.cursor, self.block_expert, self.num_blocks, pairs, self.E,
                           triton.next_power_of_2(self.E + 1), bm, 1024, num_warps=8)
        place_kernel[(triton.cdiv(pairs, 256),)](ids, self.starts, self.cursor, self.slots, pairs, self.E, 256)
        return blocks

    def up(self, x, w13, ids, blocks, bm, config):
        bn, bk, warps, stages = config
        up_kernel[(triton.cdiv(self.I, bn), blocks)](x, w13, self.slots, self.block_expert, self.num_blocks, self.h,
                                                     ids.numel(), self.K, self.H, self.I, bm, bn, bk, num_warps=warps,
                                                     num_stages=stages)

    def down(self, w2, weights, ids, blocks, bm, config):
        bn, bk, warps, stages = config
        down_kernel[(triton.cdiv(self.H, bn), blocks)](self.h, w2, self.slots, self.block_expert, self.num_blocks,
                                                       weights, self.y, ids.numel(), self.H, self.I, bm, bn, bk,
                                                       num_warps=warps, num_stages=stages)

    def run(self, x, w13, w2, weights, ids, out, choice):
        bm, up, down = choice
        blocks = self.align(ids, bm)
        self.up(x, w13, ids, blocks, bm, up)
        self.down(w2, weights, ids, blocks, bm, down)
        sum_kernel[(triton.cdiv(self.H, 1024), x.shape[0])](self.y, ids, out, self.E, self.K, self.H, 1024)
        return out

    def tune(self, x, w13, w2, weights, ids):
        """The best of the table for this many tokens: block rows near the rows per expert, each product by itself."""
        tokens = x.shape[0]
        if tokens in self.tuned:
            return self.tuned[tokens]
        rows = max(1, tokens * self.K // min(self.E, tokens * self.K))
        near = min(max(16, triton.next_power_of_2(rows)), 128)
        best = None
        for bm in sorted({near, max(16, near // 2)}):
            blocks = self.align(ids, bm)
            parts = []
            for name, call in (("up", lambda c: self.up(x, w13, ids, blocks, bm, c)),
                               ("down", lambda c: self.down(w2, weights, ids, blocks, bm, c))):
                times = []
                for config in CONFIGS[bm]:
                    try:
                        times.append((_time(lambda: call(config)), config))
                    except Exception as error:  # too much shared memory, most often
                        self.log(f"triton {name} BM={bm} {config}: {type(error).__name__}")
                if not times:
                    break
                parts.append(min(times))
            if len(parts) == 2 and (best is None or parts[0][0] + parts[1][0] < best[0]):
                best = (parts[0][0] + parts[1][0], (bm, parts[0][1], parts[1][1]))
        if best is None:
            raise RuntimeError("no configuration of the Triton kernels ran")
        self.log(f"triton T={tokens}: block rows, up and down (BN, BK, warps, stages) {best[1]}")
        self.tuned[tokens] = best[1]
        return best[1]


def _time(call):
    if os.environ.get("TRITON_INTERPRET") == "1":
        call()
        return 0.0
    call()
    call()
    times = []
    for _ in range(5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(200_000)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[2]


@triton.jit
def place_rows_kernel(ids, starts, cursor, rows, S, E: tl.constexpr, CHUNK: tl.constexpr):
    """place_kernel the other way round: which row each (token, k) has."""
    at = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    id_ = tl.load(ids + at, mask=at < S, other=-1)
    mine = (id_ >= 0) & (id_ < E)
    row = tl.atomic_add(cursor + id_, 1, mask=mine, sem="relaxed")
    tl.store(rows + at, tl.load(starts + id_, mask=mine, other=0) + row, mask=mine)


@triton.jit
def owner_kernel(block_expert, num_blocks, owner, BM: tl.constexpr):
    """The expert of each row; blocks behind the last are the last one's, since a library may follow any other number."""
    block = tl.minimum(tl.program_id(0), tl.load(num_blocks) - 1)
    expert = tl.load(block_expert + block)
    block = tl.program_id(0)
    tl.store(owner + block * BM + tl.arange(0, BM), tl.zeros([BM], tl.int32) + expert)


@triton.jit
def gather_kernel(x, rows, out, K: tl.constexpr, H: tl.constexpr, BN: tl.constexpr):
    pair = tl.program_id(0)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    row = tl.load(rows + pair).to(tl.int64)
    tl.store(out + row * H + n, tl.load(x + (pair // K).to(tl.int64) * H + n, mask=n < H), mask=n < H)


@triton.jit
def silu_kernel(middle, rows, h, I: tl.constexpr, BN: tl.constexpr):
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    row = tl.load(rows + tl.program_id(0)).to(tl.int64)
    gate = tl.load(middle + row * (2 * I) + n, mask=n < I, other=0.0).to(tl.float32)
    up = tl.load(middle + row * (2 * I) + I + n, mask=n < I, other=0.0).to(tl.float32)
    tl.store(h + row * I + n, (gate * tl.sigmoid(gate) * up).to(h.dtype.element_ty), mask=n < I)


@triton.jit
def weighted_sum_kernel(y, rows, weights, out, K: tl.constexpr, H: tl.constexpr, BN: tl.constexpr):
    t = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    total = tl.zeros([BN], tl.float32)
    for k in tl.static_range(K):
        row = tl.load(rows + t * K + k).to(tl.int64)
        total += tl.load(weights + t * K + k) * tl.load(y + row * H + n, mask=n < H, other=0.0).to(tl.float32)
    tl.store(out + t * H + n, total.to(out.dtype.element_ty), mask=n < H)


class AroundProducts:
    """The rest of the layer for a library's grouped product over rows in whole blocks of `bm` per expert."""

    def __init__(self, experts, top_k, hidden, inner, bm, tokens, dtype, device):
        self.E, self.K, self.H, self.I, self.bm = experts, top_k, hidden, inner, bm
        pairs = tokens * top_k
        self.blocks = (pairs + min(pairs, experts) * (bm - 1)) // bm
        count = self.blocks * bm
        new = lambda shape, kind=torch.int32: torch.zeros(shape, dtype=kind, device=device)
        self.starts, self.cursor, self.num_blocks = new(experts), new(experts), new(1)
        self.block_expert, self.rows, self.owner = new(self.blocks), new(pairs), new(count)
        self.x, self.middle = new((count, hidden), dtype), new((count, 2 * inner), dtype)
        self.h, self.y = new((count, inner), dtype), new((count, hidden), dtype)

    def run(self, x, w13, w2, weights, ids, out, product):
        """`product(a, b, d, owner)`: d = a @ b[owner]^T, row by row."""
        pairs = ids.numel()
        count_kernel[(1,)](ids, self.starts, self.cursor, self.block_expert, self.num_blocks, pairs, self.E,
                           triton.next_power_of_2(self.E + 1), self.bm, 1024, num_warps=8)
        place_rows_kernel[(triton.cdiv(pairs, 256),)](ids, self.starts, self.cursor, self.rows, pairs, self.E, 256)
        owner_kernel[(self.blocks,)](self.block_expert, self.num_blocks, self.owner, self.bm)
        gather_kernel[(pairs, triton.cdiv(self.H, 2048))](x, self.rows, self.x, self.K, self.H, 2048)
        product(self.x, w13, self.middle, self.owner)
        silu_kernel[(pairs, triton.cdiv(self.I, 1024))](self.middle, self.rows, self.h, self.I, 1024)
        product(self.h, w2, self.y, self.owner)
        weighted_sum_kernel[(triton.cdiv(self.H, 1024), x.shape[0])](self.y, self.rows, weights, out, self.K, self.H, 1024)
        return out


@triton.jit
def read_kernel(data, sink, N, BLOCK: tl.constexpr):
    """Reads everything once; stores only what cannot be."""
    total = tl.zeros([BLOCK], tl.int32)
    for at in range(tl.program_id(0) * BLOCK, N, tl.num_programs(0) * BLOCK):
        total ^= tl.load(data + at + tl.arange(0, BLOCK))
    if tl.max(total, 0) == 0x7FFFFFFE:
        tl.store(sink, 1)


def read_once(data, sink, programs):
    """Streams an int32 tensor whose size is a multiple of 4096."""
    read_kernel[(programs,)](data, sink, data.numel(), 4096, num_warps=8)
