// ldmatrix, stmatrix and mma.sync. Fragments as in PTX ISA 9.7.14.5.8, .15 and .16; with g = lane /
// 4 and c = lane % 4:
//   m16n8k16  A  register i: row g + 8 (i % 2), columns 2c + 8 (i / 2) and the next
//             B  register i: rows 2c + 8 i and the next, column g
//   m16n8k8   A  register i: row g + 8 (i % 2), column c + 4 (i / 2)      (tf32)
//             B  register i: row c + 4 i, column g
//   both      D  element i: row g + 8 (i / 2), column 2c + i % 2
#include <cstring>

#include "backends/sim/engine.h"
#include "backends/sim/small_float.h"

namespace moejit::internal::sim {

using namespace moejit_sim;

void Engine::ldmatrix(Meeting& meeting, Thread* first) {
  const auto* head = static_cast<LdmatrixArgs*>(meeting.args[0]);
  uint16_t values[4][8][8];
  // visit(matrix, row, column, lane, which half of its register)
  const auto for_elements = [&](auto visit) {
    for (uint32_t lane = 0; lane < 32; ++lane) {
      for (uint32_t m = 0; m < static_cast<uint32_t>(head->count); ++m) {
        for (uint32_t half = 0; half < 2; ++half) {
          const uint32_t along = 2 * (lane % 4) + half;
          if (head->transposed) {
            visit(m, along, lane / 4, lane, half);
          } else {
            visit(m, lane / 4, along, lane, half);
          }
        }
      }
    }
  };
  if (head->store) {
    for_elements([&](uint32_t m, uint32_t row, uint32_t column, uint32_t lane, uint32_t half) {
      const uint32_t r = static_cast<LdmatrixArgs*>(meeting.args[lane])->r[m];
      values[m][row][column] = static_cast<uint16_t>(r >> (16 * half));
    });
  }
  for (uint32_t i = 0; i < static_cast<uint32_t>(head->count) * 8; ++i) {
    const auto* args = static_cast<LdmatrixArgs*>(meeting.args[i]);
    Thread* thread = first + i;
    if (args->count != head->count || args->transposed != head->transposed ||
        args->store != head->store) {
      fail(FindingKind::kDivergence,
           where(thread, thread->line) + "\n  lanes ask for different ldmatrix forms");
    }
    const Access access = access_by(thread, thread->line, head->store ? kWriteAccess : 0);
    char* row = shared_at(first->block, args->address, 16, 16, access, thread);
    if (head->store) {
      std::memcpy(row, values[i / 8][i % 8], 16);
    } else {
      std::memcpy(values[i / 8][i % 8], row, 16);
    }
  }
  if (head->store) return;
  for_elements([&](uint32_t m, uint32_t row, uint32_t column, uint32_t lane, uint32_t half) {
    uint32_t& r = static_cast<LdmatrixArgs*>(meeting.args[lane])->r[m];
    r = half == 0 ? values[m][row][column] : r | uint32_t{values[m][row][column]} << 16;
  });
}

void Engine::mma(Meeting& meeting) {
  const auto* head = static_cast<MmaArgs*>(meeting.args[0]);
  const int type = head->type;
  const int depth = type == kTf32 ? 8 : 16;
  float a[16][16];
  float b[16][8];
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const auto* args = static_cast<MmaArgs*>(meeting.args[lane]);
    if (args->type != type) {
      fail(FindingKind::kDivergence, "entry " + entry_->name +
                                         "\n  lanes of a warp ask for mma of different types at " +
                                         line_of(meeting.line));
    }
    const uint32_t g = lane / 4;
    const uint32_t c = lane % 4;
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t row = g + 8 * (i % 2);
      if (type == kTf32) {
        a[row][c + 4 * (i / 2)] = tf32_value(args->a[i]);
      } else {
        const uint32_t column = 2 * c + 8 * (i / 2);
        a[row][column] = half_value(type, static_cast<uint16_t>(args->a[i]));
        a[row][column + 1] = half_value(type, static_cast<uint16_t>(args->a[i] >> 16));
      }
    }
    for (uint32_t i = 0; i < 2; ++i) {
      if (type == kTf32) {
        b[c + 4 * i][g] = tf32_value(args->b[i]);
      } else {
        b[2 * c + 8 * i][g] = half_value(type, static_cast<uint16_t>(args->b[i]));
        b[2 * c + 8 * i + 1][g] = half_value(type, static_cast<uint16_t>(args->b[i] >> 16));
      }
    }
  }
  float d[16][8] = {};
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < depth; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (uint32_t lane = 0; lane < 32; ++lane) {
    auto* args = static_cast<MmaArgs*>(meeting.args[lane]);
    for (uint32_t i = 0; i < 4; ++i) {
      args->d[i] += d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
    }
  }
  counters_.multiply_adds += 16 * 8 * depth;
}

}  // namespace moejit::internal::sim
