// Prefill on AMD's matrix cores: entries `moe_mfma_gate_up` and `moe_mfma_down`. The waves of a
// block (four of 64 lanes, or eight of 32) share a tile. The
// next stage travels from global memory through registers while the matrix cores work on the one
// in LDS; with two buffers a stage costs one barrier.
#pragma once

#include "kernels/combine_parts.h"
#include "kernels/mfma.h"
#include "kernels/route.h"

namespace moe {

constexpr int kBm = kSched_tile_m;  // tokens of a tile
constexpr int kBn = kSched_tile_n;  // weight rows of a tile
constexpr int kMf = kSched_mfma;
constexpr int kBuffers = kSched_buffers;
constexpr int kTileThreads = 256;
constexpr int kStageElements = 128 / kElement;  // of the reduction
constexpr int kStageRows = kBm + kBn;           // tokens, then weights; 128 bytes each
constexpr int kWavesM = kSched_waves_m;
constexpr int kWavesN = kTileThreads / MOEJIT_WAVE / kWavesM;
constexpr int kWaveM = kBm / kWavesM;  // tokens of a wave
constexpr int kWaveN = kBn / kWavesN;  // weight rows of a wave
constexpr int kTilesX = kWaveM / kMf;
constexpr int kTilesW = kWaveN / kMf;
constexpr int kGroups = Mfma<kMf>::kGroups;
constexpr int kQuads = Mfma<kMf>::kQuads;
using Acc = Mfma<kMf>::Acc;
// Registers for the operands of two steps at once.
constexpr bool kReadAhead = MOEJIT_WAVE == 64 && kTilesX + kTilesW <= 6;
// Gate rows in the first half of a tile and of each wave's part, the same up rows in the second.
constexpr bool kPaired = kGated && !kInterleaved;
constexpr int kHalf = kBn / 2;
constexpr int kHColumns = kGated ? kHalf : kBn;
constexpr int kGateTiles = ceil_div(kIntermediateSize, kHColumns);
constexpr int kDownTiles = ceil_div(kHiddenSize, kBn);
// Blocks of their own take ranges of a reduction, where there are few tiles. Their sums are added
// in the order of the ranges: of down by combine, of gate and up by tile_mfma_sums.h.
constexpr int kPartsGate = kSched_split_gate;
constexpr int kPartsDown = kSched_split;

// Row (column, where transposed) of the weights for row c of column tile n; past the end, any row:
// what it gives is not stored.
template <bool kGateUp>
MOEJIT_DEVICE int weight_row(int n, int c) {
  if constexpr (kGateUp && kPaired) {
    const int i = n * kHalf + (c < kHalf ? c : c - kHalf);
    if (i >= kIntermediateSize) return 0;
    return c < kHalf ? gate_row(i) : up_row(i);
  } else {
    const int row = n * kBn + c;
    return row < (kGateUp ? kW13Rows : kHiddenSize) ? row : 0;
  }
}

// Piece p of row r of a stage: eight neighbouring rows have it in eight places, so that reads of
// one piece of many rows meet no bank conflict.
MOEJIT_DEVICE u32 stage_offset(u32 row, u32 piece) {
  return row * 128 + ((piece ^ (row & 7u)) << 4);
}

template <bool kGateUp>
MOEJIT_DEVICE bool is_weight_row(int n, int c) {
  if constexpr (kGateUp && kPaired)
    return n * kHalf + (c < kHalf ? c : c - kHalf) < kIntermediateSize;
  return n * kBn + c < (kGateUp ? kW13Rows : kHiddenSize);
}

template <bool kGateUp>
struct TileFiller {
  static constexpr int kDepth = kGateUp ? kHiddenSize : kIntermediateSize;
  static constexpr int kRows = kGateUp ? kW13Rows : kHiddenSize;
  static constexpr int kPieces = kDepth / kPiece;
  static constexpr int kStages = ceil_div(kPieces, 8);
  static constexpr bool kTail = kPieces % 8 != 0;
  static constexpr int kAtOnce = kTileThreads / 8;  // rows
  static constexpr int kCopiesX = ceil_div(kBm, kAtOnce);
  static constexpr int kCopiesW = kBn / kAtOnce;
  // Transposed weights: a thread takes kPiece lines of the reduction times one piece of columns and
  // turns them round in registers.
  static constexpr int kTurnsOfAll = 8 * (kBn / kPiece);
  static constexpr int kTurns = ceil_div(kTurnsOfAll, kTileThreads);
  static constexpr int kParts = kTransposed ? kTurns * kPiece : kCopiesW;

  const u8* x[kCopiesX];
  const u8* w[kTransposed ? 1 : kCopiesW];
  const u8* weights;
  int n;
  u32x4 held_x[kCopiesX];
  u32x4 held_w[kParts];

  MOEJIT_DEVICE void enter(const MoeArgs& a, const Tile& tile) {
    const u8* source = kGateUp ? static_cast<const u8*>(a.x) : region(a, kRegion_h);
    weights = at(kGateUp ? a.w13 : a.w2, static_cast<i64>(tile.expert) * kRows * kDepth * kElement);
    n = tile.n;
    const int first = static_cast<int>(thread_id() >> 3);
    const u32 column = (thread_id() & 7u) * 16;
    MOEJIT_UNROLL
    for (int i = 0; i < kCopiesX; ++i) {
      // A row that the tile does not have is its first one again.
      const int r = first + i * kAtOnce < tile.rows ? first + i * kAtOnce : 0;
      i64 line = tile.first_row + r;
      if (kGateUp) line = ldg_i32(plan_rows(a) + line) / kSlots;
      x[i] = source + line * (kDepth * kElement) + column;
    }
    if constexpr (!kTransposed) {
      MOEJIT_UNROLL
      for (int i = 0; i < kCopiesW; ++i) {
        w[i] = weights +
               static_cast<i64>(weight_row<kGateUp>(n, first + i * kAtOnce)) * (kDepth * kElement) +
               column;
      }
    }
  }
  // Stage k of the reduction into registers.
  MOEJIT_DEVICE void load(int k) {
    const bool inside = !kTail || k * 8 + static_cast<int>(thread_id() & 7u) < kPieces;
    // Past the end of the rows: their first piece, then zeros in its place.
    const i64 step = inside ? static_cast<i64>(k) * 128 : -static_cast<i64>(thread_id() & 7u) * 16;
    MOEJIT_UNROLL
    for (int i = 0; i < kCopiesX; ++i) held_x[i] = ldg_u32x4(x[i] + step);
    if constexpr (!kTransposed) {
      MOEJIT_UNROLL
      for (int i = 0; i < kCopiesW; ++i) held_w[i] = ldg_u32x4(w[i] + step);
    } else {
      MOEJIT_UNROLL
      for (int t = 0; t < kTurns; ++t) {
        const Turn turn = turn_of(t);
        if (!turn.mine) continue;
        const int column = weight_row<kGateUp>(n, turn.column);
        MOEJIT_UNROLL
        for (int j = 0; j < kPiece; ++j) {
          const int depth = k * kStageElements + turn.line + j;
          held_w[t * kPiece + j] = ldg_u32x4(
              weights + (static_cast<i64>(depth < kDepth ? depth : 0) * kRows + column) * kElement);
        }
      }
    }
    if constexpr (kTail) {
      if (k != kStages - 1) return;
      MOEJIT_UNROLL
      for (int i = 0; i < kCopiesX; ++i) {
        if (!inside) held_x[i] = {0, 0, 0, 0};
      }
      if constexpr (!kTransposed) {
        MOEJIT_UNROLL
        for (int i = 0; i < kCopiesW; ++i) {
          if (!inside) held_w[i] = {0, 0, 0, 0};
        }
      } else {
        MOEJIT_UNROLL
        for (int i = 0; i < kParts; ++i) {
          if (k * kStageElements + turn_of(i / kPiece).line >= kDepth) held_w[i] = {0, 0, 0, 0};
        }
      }
    }
  }
  // What load() fetched, into the stage.
  MOEJIT_DEVICE void store(u32 stage) const {
    const u32 first = thread_id() >> 3;
    const u32 piece = thread_id() & 7u;
    MOEJIT_UNROLL
    for (int i = 0; i < kCopiesX; ++i) {
      const u32 r = first + i * kAtOnce;
      if (kBm % kAtOnce == 0 || r < kBm) sts_u32x4(stage + stage_offset(r, piece), held_x[i]);
    }
    if constexpr (!kTransposed) {
      MOEJIT_UNROLL
      for (int i = 0; i < kCopiesW; ++i) {
        sts_u32x4(stage + stage_offset(kBm + first + i * kAtOnce, piece), held_w[i]);
      }
    } else {
      MOEJIT_UNROLL
      for (int t = 0; t < kTurns; ++t) {
        const Turn turn = turn_of(t);
        if (!turn.mine) continue;
        MOEJIT_UNROLL
        for (int c = 0; c < kPiece; ++c) {
          u32 v[4];
          MOEJIT_UNROLL
          for (int d = 0; d < 4; ++d) {
            if constexpr (kIsF32) {
              v[d] = word(held_w[t * kPiece + d], c);
            } else {
              const u32 lo = word(held_w[t * kPiece + 2 * d], c / 2) >> (c % 2 * 16) & 0xffffu;
              const u32 hi = word(held_w[t * kPiece + 2 * d + 1], c / 2) >> (c % 2 * 16) & 0xffffu;
              v[d] = lo | hi << 16;
            }
          }
          sts_u32x4(stage + stage_offset(kBm + turn.column + c, turn.line / kPiece),
                    {v[0], v[1], v[2], v[3]});
        }
      }
    }
  }

 private:
  struct Turn {
    int line;    // of the stage's reduction, a multiple of kPiece
    int column;  // of the tile, a multiple of kPiece
    bool mine;   // narrow tiles have fewer than one for every thread
  };
  MOEJIT_DEVICE static Turn turn_of(int t) {
    const int which = t * kTileThreads + static_cast<int>(thread_id());
    constexpr int kAcross = kBn / kPiece;
    return {which / kAcross * kPiece, which % kAcross * kPiece,
            kTurnsOfAll % kTileThreads == 0 || which < kTurnsOfAll};
  }
  MOEJIT_DEVICE static u32 word(const u32x4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
  }
};

// First row of the tile of product tile w of a wave.
template <bool kGateUp>
MOEJIT_DEVICE int first_weight_row(int wave_n, int w) {
  if constexpr (kGateUp && kPaired) {
    constexpr int kEach = kTilesW / 2;
    return w < kEach ? wave_n * (kWaveN / 2) + w * kMf
                     : kHalf + wave_n * (kWaveN / 2) + (w - kEach) * kMf;
  } else {
    return wave_n * kWaveN + w * kMf;
  }
}

template <bool kGateUp>
MOEJIT_DEVICE void multiply(u32 stage, int wave_m, int wave_n, Acc (&acc)[kTilesW][kTilesX]) {
  const u32 lane = wave_lane() % kMf;
  const u32 group = wave_lane() / kMf;
  const auto operand = [&](u32 row, int step) {
    Operand o;
    MOEJIT_UNROLL
    for (int p = 0; p < kGiven; ++p) {
      o.v[p] = lds_u32x4(stage + stage_offset(row, step * kGroups + (kGiven == 1 ? group : p)));
    }
    return o;
  };
  const auto tokens = [&](int m, int step) {
    return operand(wave_m * kWaveM + m * kMf + lane, step);
  };
  const auto weights = [&](int w, int step) {
    return operand(kBm + first_weight_row<kGateUp>(wave_n, w) + weight_lane(lane), step);
  };
  constexpr int kSteps = 8 / kGroups;
  if constexpr (kReadAhead) {
    // The next step's operands are on their way from LDS while the present one's are multiplied.
    Operand x[2][kTilesX], v[2][kTilesW];
    const auto read = [&](int step) {
      MOEJIT_UNROLL
      for (int m = 0; m < kTilesX; ++m) x[step % 2][m] = tokens(m, step);
      MOEJIT_UNROLL
      for (int w = 0; w < kTilesW; ++w) v[step % 2][w] = weights(w, step);
      in_order();
    };
    read(0);
    MOEJIT_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      if (step + 1 < kSteps) read(step + 1);
      MOEJIT_UNROLL
      for (int w = 0; w < kTilesW; ++w) {
        MOEJIT_UNROLL
        for (int m = 0; m < kTilesX; ++m) product(acc[w][m], v[step % 2][w], x[step % 2][m]);
      }
      in_order();
    }
    return;
  }
  MOEJIT_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    Operand x[kTilesX];
    MOEJIT_UNROLL
    for (int m = 0; m < kTilesX; ++m) x[m] = tokens(m, step);
    MOEJIT_UNROLL
    for (int w = 0; w < kTilesW; ++w) {
      const Operand v = weights(w, step);
      MOEJIT_UNROLL
      for (int m = 0; m < kTilesX; ++m) product(acc[w][m], v, x[m]);
    }
    // Or the operands of all steps would be read first, into more registers than there are.
    if constexpr (MOEJIT_WAVE == 32) {
      MOEJIT_UNROLL
      for (int i = 0; i < kTilesW * kTilesX; ++i) settle(acc[i / kTilesX][i % kTilesX]);
      in_order();
    }
  }
}

template <bool kGateUp>
MOEJIT_DEVICE void finish_tile(const MoeArgs& a, const Tile& tile, int part, int wave_m, int wave_n,
                               const Acc (&acc)[kTilesW][kTilesX]) {
  const int lane = static_cast<int>(wave_lane()) % kMf;
  const int group = static_cast<int>(wave_lane()) / kMf;
  MOEJIT_UNROLL
  for (int m = 0; m < kTilesX; ++m) {
    const int r = wave_m * kWaveM + m * kMf + lane;
    if (r >= tile.rows) continue;
    const i64 row = tile.first_row + r;
    if constexpr (kGateUp && kPartsGate > 1) {
      // In the order of the weights' rows, as they are.
      u8* line = region(a, kRegion_sums) + (row * kPartsGate + part) * (kW13Rows * 4);
      MOEJIT_UNROLL
      for (int w = 0; w < kTilesW; ++w) {
        MOEJIT_UNROLL
        for (int q = 0; q < kQuads; ++q) {
          const int c = first_weight_row<true>(wave_n, w) + q * 4 * kGroups + group * 4;
          if (!is_weight_row<true>(tile.n, c)) continue;
          const Acc& d = acc[w][m];
          stg_f32x4(line + weight_row<true>(tile.n, c) * 4,
                    {d[q * 4], d[q * 4 + 1], d[q * 4 + 2], d[q * 4 + 3]});
        }
      }
    } else if constexpr (kGateUp) {
      const HRow h = h_row(a, row);
      MOEJIT_UNROLL
      for (int w = 0; w < (kPaired ? kTilesW / 2 : kTilesW); ++w) {
        MOEJIT_UNROLL
        for (int q = 0; q < kQuads; ++q) {
          const int c = first_weight_row<true>(wave_n, w) + q * 4 * kGroups + group * 4;
          if constexpr (kGated && kInterleaved) {
            const int i = (tile.n * kBn + c) / 2;
            if (i >= kIntermediateSize) continue;
            constexpr int kGate = kUpFirst ? 1 : 0;
            f32 v[2];
            MOEJIT_UNROLL
            for (int j = 0; j < 2; ++j) {
              v[j] = h_of(a, tile.expert, i + j, h.weight, acc[w][m][q * 4 + j * 2 + kGate],
                          acc[w][m][q * 4 + j * 2 + 1 - kGate]);
            }
            store_pair(h.line, i, v[0], v[1]);
          } else {
            const int i = tile.n * kHColumns + c;
            if (i >= kIntermediateSize) continue;
            f32 v[4];
            MOEJIT_UNROLL
            for (int j = 0; j < 4; ++j) {
              f32 up = 0.0f;
              if constexpr (kPaired) up = acc[w + kTilesW / 2][m][q * 4 + j];
              v[j] = h_of(a, tile.expert, i + j, h.weight, acc[w][m][q * 4 + j], up);
            }
            store_quad(h.line, i, v[0], v[1], v[2], v[3]);
          }
        }
      }
    } else {
      const YRow y = y_row<kPartsDown>(a, row, part);
      MOEJIT_UNROLL
      for (int w = 0; w < kTilesW; ++w) {
        MOEJIT_UNROLL
        for (int q = 0; q < kQuads; ++q) {
          const int c =
              tile.n * kBn + first_weight_row<false>(wave_n, w) + q * 4 * kGroups + group * 4;
          const Acc& d = acc[w][m];
          finish_y(a, tile.expert, y, c, {d[q * 4], d[q * 4 + 1], d[q * 4 + 2], d[q * 4 + 3]},
                   part);
        }
      }
    }
  }
}

template <bool kGateUp>
MOEJIT_DEVICE void tile_mfma(const MoeArgs& a) {
  constexpr int kTiles = kGateUp ? kGateTiles : kDownTiles;
  constexpr int kStages = TileFiller<kGateUp>::kStages;
  constexpr u32 kStageBytes = kStageRows * 128;
  const u32 base = shared_base();
  const int wave_m = static_cast<int>(wave_id()) % kWavesM;
  const int wave_n = static_cast<int>(wave_id()) / kWavesM;
  constexpr int kParts = kGateUp ? kPartsGate : kPartsDown;
  const int items = ldg_i32(plan_counts(a)) * kTiles * kParts;
  for (int item = die_order(); item < items; item += static_cast<int>(block_count())) {
    const Tile tile = locate_tile(a, item / kParts, kTiles);
    const int part = item % kParts;
    const int first = kStages * part / kParts, end = kStages * (part + 1) / kParts;
    Acc acc[kTilesW][kTilesX];
    MOEJIT_UNROLL
    for (int w = 0; w < kTilesW; ++w) {
      MOEJIT_UNROLL
      for (int m = 0; m < kTilesX; ++m) clear(acc[w][m]);
    }
    TileFiller<kGateUp> filler;
    filler.enter(a, tile);
    filler.load(first);
    block_sync();  // the tile before is done with LDS
    filler.store(base);
    MOEJIT_NO_UNROLL
    for (int k = first; k < end; ++k) {
      const u32 stage = base + (kBuffers == 2 ? (k - first) % 2 * kStageBytes : 0);
      block_sync();
      if (k + 1 < end) filler.load(k + 1);
      multiply<kGateUp>(stage, wave_m, wave_n, acc);
      if (k + 1 < end) {
        if constexpr (kBuffers == 1) {
          block_sync();
        }
        filler.store(base + (kBuffers == 2 ? (k + 1 - first) % 2 * kStageBytes : 0));
      }
    }
    finish_tile<kGateUp>(a, tile, part, wave_m, wave_n, acc);
  }
}

}  // namespace moe

MOEJIT_KERNEL(moe_mfma_gate_up, moe::kTileThreads, moejit_cfg::kSched_blocks)
(moejit_abi::MoeArgs a) {
  moe::tile_mfma<true>(a);
}

MOEJIT_KERNEL(moe_mfma_down, moe::kTileThreads, moejit_cfg::kSched_blocks)
(moejit_abi::MoeArgs a) {
  moe::tile_mfma<false>(a);
}

MOEJIT_KERNEL(moe_combine, moe::kCombineThreads, 1)(moejit_abi::MoeArgs a) {
  moe::combine<moe::kPartsDown, false>(a);
}
