// What a simulated kernel and the simulator say to each other: the state of the running thread and
// a table of functions. Included by both sides; needs no header.
//
// `line` is the kernel's source line that called the primitive; findings name it.
// Shared addresses are bytes in the block's shared window, as in PTX.
#pragma once

namespace moejit_sim {

// The running thread. The simulator points the module's `moejit_sim_self` at it on every switch.
struct Self {
  unsigned thread;
  unsigned block;
  unsigned block_count;
  unsigned cluster_rank;
  unsigned shared_base;
};

// Calls at which several threads meet; `args` is the structure of the same name.
enum Collective {
  kWarpSync = 0,
  kShuffle = 1,
  kBallot = 2,
  kReduce = 3,
  kLdmatrix = 4,
  kMma = 5,
  kWgmmaFence = 6,  // the rest: warpgroup
  kWgmma = 7,
  kWgmmaCommit = 8,
  kWgmmaWait = 9,
  kSetMaxRegisters = 10,
  kMfma = 11,  // a wave of 64 lanes
  kWmma = 12,  // a warp
};

enum ShuffleMode { kIndex = 0, kXor = 1, kUp = 2 };
struct ShuffleArgs {
  int mode;
  unsigned value;
  unsigned operand;
  unsigned result;
};

struct BallotArgs {
  unsigned predicate;
  unsigned result;
};

enum ReduceOp { kMax = 0, kMin = 1, kAdd = 2 };
struct ReduceArgs {
  int op;
  unsigned value;
  unsigned result;
};

struct LdmatrixArgs {
  unsigned address;
  int count;  // 2 or 4 matrices
  int transposed;
  unsigned* r;
  int store;  // stmatrix: from r to shared memory
};

enum MmaType { kBf16 = 0, kF16 = 1, kTf32 = 2, kF32 = 3 };
struct MmaArgs {
  int type;
  float* d;
  const unsigned* a;
  const unsigned* b;
};

struct MfmaArgs {  // d += a * b: size 16 or 32, of f32 deep 64 / size, else four times that
  int type;
  int size;
  int flush;  // subnormal 16-bit operands count as zero
  float* d;   // size * size / 64 of them
  const unsigned* a;
  const unsigned* b;
};

struct WmmaArgs {  // d += a * b: 16x16, 16 deep, of f32 8 deep; operands alike in both halves
  int type;
  float* d;           // 8
  const unsigned* a;  // 8 words
  const unsigned* b;
};

struct WgmmaArgs {
  int type;
  int n;
  int transposed_b;
  int accumulate;
  unsigned long long desc_a;
  unsigned long long desc_b;
  float* d;  // n / 2 of them
};

struct CountArgs {  // kWgmmaWait: pending groups; kSetMaxRegisters: registers, negative for dec
  int count;
};

enum Order { kRelaxed = 0, kAcqRel = 1 };
// On 8 bytes of global memory that may hold anything to begin with.
enum WordUpdate { kWordAdd = 0, kWordAddRelease = 1, kWordSwapIf = 2, kWordAcquire = 3 };
enum Fence { kFenceGpu = 0, kFenceMbarInit = 1, kFenceProxyShared = 2, kFenceProxyGlobal = 3 };
enum MathFunction { kExp = 0, kTanh = 1, kErf = 2, kLog1p = 3, kSqrt = 4, kExp2 = 5 };

// A tensor map as this simulator encodes it, in the 128 bytes of dev::TensorMap.
struct TensorMapData {
  unsigned long long magic;  // kTensorMapMagic
  const void* base;
  unsigned rank;  // 2 or 3
  unsigned element_bytes;
  unsigned swizzle_bytes;  // 0, 32, 64 or 128
  unsigned box[3];
  unsigned long long dim[3];     // elements, innermost first
  unsigned long long stride[3];  // bytes; stride[0] is element_bytes
};
constexpr unsigned long long kTensorMapMagic = 0x6d6f656a69742d54ull;

// The policy of a store that is to stay in the cache.
constexpr unsigned long long kEvictLast = 0x14F0000000000000ull;

struct Runtime {
  void (*load_shared)(unsigned address, void* value, unsigned bytes, unsigned line);
  void (*store_shared)(unsigned address, const void* value, unsigned bytes, unsigned line);
  unsigned (*add_shared)(unsigned address, unsigned value, unsigned line);
  unsigned (*load_cluster)(unsigned address, unsigned rank, unsigned line);

  // `stream`: through the non-coherent path, for memory that the layer never writes.
  void (*load_global)(const void* address, void* value, unsigned bytes, int stream, unsigned line);
  void (*store_global)(void* address, const void* value, unsigned bytes, unsigned line);
  unsigned (*add_global)(void* address, unsigned value, int order, unsigned line);
  unsigned (*load_acquire)(const void* address, unsigned line);
  unsigned long long (*update_word)(void* address, int update, unsigned long long value,
                                    unsigned long long expected, unsigned line);
  void (*prefetch)(const void* address, unsigned line);
  // 128 bytes, 128-aligned: whoever reads them before they are written again reads anything.
  void (*discard)(void* address, unsigned line);
  void (*count_kept)(unsigned bytes);
  void (*fence)(int kind, unsigned line);

  void (*collective)(int kind, void* args, unsigned line);
  void (*block_sync)(unsigned line);
  void (*named_barrier)(unsigned id, unsigned threads, int wait, unsigned line);
  void (*cluster_sync)(unsigned line);

  void (*cp_async)(unsigned dst, const void* src, int valid, unsigned line);
  void (*cp_async_commit)(unsigned line);
  void (*cp_async_wait)(int pending, unsigned line);
  void (*cp_async_arrive)(unsigned bar, unsigned line);

  void (*mbar_init)(unsigned bar, unsigned count, unsigned line);
  void (*mbar_arrive)(unsigned bar, unsigned expect_tx, unsigned line);
  void (*mbar_arrive_cluster)(unsigned bar, unsigned rank, unsigned line);
  void (*mbar_wait)(unsigned bar, unsigned parity, unsigned line);
  void (*bulk_load)(unsigned dst, const void* src, unsigned bytes, unsigned bar, unsigned line);
  // To every block of the cluster whose bit `blocks` has; 0: to the own block. Rows of the box
  // from `rows` on are not read and become NaN.
  void (*tensor_load)(unsigned dst, const void* map, int rank, const int* coordinates,
                      unsigned rows, unsigned bar, unsigned blocks, unsigned line);
  void (*tensor_prefetch)(const void* map, int rank, const int* coordinates, unsigned line);

  void (*grid_wait)(unsigned line);
  void (*grid_launch_dependents)(unsigned line);
  float (*math)(int function, float x);
};

}  // namespace moejit_sim
