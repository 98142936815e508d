// The engine: runs the entries of one launch on fibers, once, under one policy of timing.
//
// One launch at a time in a process (launch_mutex), on the calling thread, so every run is
// deterministic. A finding abandons all fibers: kernels hold nothing that needs a destructor, and
// of the engine's own a few kilobytes on their stacks are lost.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "backends/sim/clock.h"
#include "backends/sim/cost.h"
#include "backends/sim/fiber.h"
#include "backends/sim/finding.h"
#include "backends/sim/shadow.h"
#include "templates/device/sim/runtime.h"

namespace moejit::internal::sim {

// When asynchronous work takes effect, and in which order warps and blocks get their turns.
enum class Timing { kEarly, kLate };

// A piece of global memory that the launch may touch.
struct Region {
  std::string name;
  uintptr_t begin = 0;
  uintptr_t end = 0;
  bool writable = false;
  bool must_cover = false;  // every byte must be written by the end
  Shadow shadow;            // of writable regions
};

// Calls a kernel function with its parameters.
using Invoke = void (*)(void* function, const void* args);

struct EntryPlan {
  std::string name;
  void* function = nullptr;
  uint32_t blocks = 1;
  uint32_t threads = 32;
  uint32_t shared_bytes = 0;
  uint32_t cluster = 1;
  bool dependent = false;
  Invoke invoke = nullptr;
};

struct Limits {
  uint32_t units = 4;
  uint32_t threads_per_unit = 2048;
  uint32_t shared_per_unit = 0;
  uint32_t registers_per_unit = 65536;
  bool has_async_proxy = false;
};

// Collects what several threads publish at a barrier. Contributions are taken when they arrive.
class Gather {
 public:
  void add(const Observer& observer, uint32_t agents);
  void raise(uint32_t block, uint32_t agents, uint32_t agent, uint32_t time);
  void clear();
  const Knowledge& knowledge() const { return know_; }

 private:
  Knowledge know_;
  VecRef last_vec_;
  VecRef last_fenced_;
};

enum class Wait : uint8_t { kReady, kGroup, kBlock, kNamed, kCluster, kMbarrier, kSpin, kExited };

class Engine;
struct Block;

struct Thread {
  moejit_sim::Self self{};  // first: the kernel reads it
  Fiber fiber;
  Block* block = nullptr;
  Observer observer;
  Wait wait = Wait::kReady;
  uint32_t wait_a = 0;
  uint32_t wait_b = 0;
  uint32_t line = 0;
  // cp.async: copies issued, closed into groups, performed.
  struct Copy {
    uint32_t dst;
    const void* src;
    bool valid;
    uint32_t line;
    Observer issued;
  };
  std::deque<Copy> copies;  // issued and not performed (late timing)
  uint32_t copies_issued = 0;
  uint32_t copies_done = 0;
  std::deque<uint32_t> copy_groups;  // copies_issued at each commit, for groups not waited for
  // Fences around relaxed atomics.
  std::unique_ptr<Knowledge> released_by_fence;
  std::unique_ptr<Knowledge> acquired_by_fence;
  uint32_t fence_time = 0;
};

// A warp or warpgroup collecting the arguments of a collective call.
struct Meeting {
  int kind = -1;
  uint32_t arrived = 0;
  uint32_t line = 0;
  std::array<void*, 128> args;
};

struct Barrier {
  uint32_t expected = 0;
  uint32_t arrived = 0;
  uint32_t line = 0;
  Gather gather;
  VecRef last;  // what they knew who met here before
  std::vector<Thread*> waiting;
  std::vector<uint16_t> lanes_of_warp;  // arrivals per warp
};

struct Mbar {
  uint32_t address = 0;
  uint32_t expected = 0;
  uint32_t pending = 0;
  int64_t tx = 0;
  uint32_t phase = 0;  // completed phases
  uint32_t agent = 0;
  const Thread* made_by = nullptr;
  bool fenced = false;  // its maker has fenced since: copies may complete on it
  Gather gather;
  Knowledge completed;
  Knowledge remote_gather;  // of arrivals from other blocks of the cluster
  VecRef memo_in, memo_out;
  std::vector<Thread*> waiting;
};

struct Wgmma {
  int type, n, transposed_b;
  bool accumulate;
  uint64_t desc_a, desc_b;
  std::array<float*, 128> d;
  uint32_t line;
  uint32_t time;
  std::array<Observer, 4> issued;  // lane 0 of each warp
};

struct Warpgroup {
  bool fenced = false;
  uint32_t issued = 0;
  std::deque<uint32_t> groups;  // `issued` at each commit, for groups not waited for
  std::deque<Wgmma> pending;    // not performed (late timing)
  uint32_t committed = 0;
  // In-flight accumulators by the address that thread 0 gave: their true values while the kernel
  // sees NaN.
  std::map<float*, std::vector<float>> accumulators;
  uint32_t registers = 0;
};

struct Cluster {
  std::vector<Block*> blocks;
  uint32_t arrived = 0;
  Gather gather;
  std::vector<Thread*> waiting;
};

struct Block {
  uint32_t id = 0;    // in the grid
  uint32_t uid = 0;   // in the launch
  uint32_t rank = 0;  // in the cluster
  std::shared_ptr<Cluster> cluster;
  uint32_t alive = 0;
  uint32_t agents = 0;  // size of its vectors
  uint32_t next_agent = 0;
  uint64_t known_at_exit = 0;
  bool triggered = false;
  uint64_t known_at_trigger = 0;
  Engine* engine = nullptr;
  uint32_t shared_base = 0;
  uint32_t shared_bytes = 0;
  std::vector<char> shared_storage;
  char* shared = nullptr;  // byte `shared_base` of the window
  Shadow shadow;
  std::vector<Thread> threads;
  std::vector<Meeting> warps;
  std::vector<Meeting> waves;
  std::vector<Meeting> groups;
  std::vector<Warpgroup> warpgroups;
  std::array<Barrier, 16> barriers;
  std::unordered_map<uint32_t, Mbar> mbars;
  std::deque<Thread*> ready;
  std::vector<Thread*> spinning;
};

// Bulk or tensor copy into shared memory, or a cp.async arrival, that has not happened yet.
struct Pending {
  enum Kind { kBulk, kTensor, kCopyArrive } kind = kBulk;
  Block* block = nullptr;
  Thread* thread = nullptr;
  uint32_t dst = 0;
  const void* src = nullptr;
  uint32_t bytes = 0;
  uint32_t bar = 0;
  moejit_sim::TensorMapData map{};
  std::array<int, 3> at{};
  uint32_t rows = 0;  // of a box that count
  uint32_t copies = 0;
  uint32_t line = 0;
  Observer issued;
};

class Engine {
 public:
  Engine(Limits limits, Timing timing, bool races, std::vector<Region>& regions);
  ~Engine();

  // Runs the entries in order; false where there is a finding.
  bool run(const std::vector<EntryPlan>& entries, const void* args,
           const moejit_sim::Self** self_slot);
  const Finding& finding() const { return finding_; }
  const Counters& counters() const { return counters_; }
  // Source lines of the kernel, for findings; set by the module.
  const std::vector<std::string_view>* source = nullptr;

  static const moejit_sim::Runtime& table();

 private:
  friend struct Calls;  // the functions of the table

  // engine.cpp: life of blocks and fibers.
  bool run_grid(const EntryPlan& entry);
  void start_cluster(uint32_t first_block);
  void retire(Block* block);
  bool step(Block* block);
  bool advance();  // when nothing is ready: false on a deadlock
  static void fiber_main(void* thread);
  void thread_exit(Thread* thread);
  void suspend(Thread* thread, Wait why);
  void wake(Thread* thread);
  void switch_to(Thread* thread);

  // report.cpp
  [[noreturn]] void fail(FindingKind kind, const std::string& text);
  void fail_from_scheduler(FindingKind kind, std::string text);
  std::string where(const Thread* thread, uint32_t line) const;
  std::string who(const Cell& cell) const;
  std::string line_of(uint32_t line) const;
  std::string states() const;
  std::string describe_global(uintptr_t address, size_t bytes) const;
  [[noreturn]] void fail_conflict(Conflict conflict, const Access& access, const Cell& earlier,
                                  const std::string& place, const Thread* thread);

  // memory.cpp
  Access access_by(const Thread* thread, uint32_t line, uint8_t flags) const;
  // Checks bounds, alignment, init (reads) and races, marks (writes); returns the host address.
  char* shared_at(Block* block, uint32_t address, uint32_t bytes, uint32_t align,
                  const Access& access, const Thread* thread);
  char* global_at(const void* address, size_t bytes, uint32_t align, const Access& access,
                  const Thread* thread, bool stream);
  Region* region_of(uintptr_t address, size_t bytes);
  void load_shared(uint32_t address, void* value, uint32_t bytes, uint32_t line);
  void store_shared(uint32_t address, const void* value, uint32_t bytes, uint32_t line);
  uint32_t add_shared(uint32_t address, uint32_t value, uint32_t line);
  Block* block_of_cluster(uint32_t rank, uint32_t line);
  uint32_t load_cluster(uint32_t address, uint32_t rank, uint32_t line);
  void load_global(const void* address, void* value, uint32_t bytes, bool stream, uint32_t line);
  void store_global(void* address, const void* value, uint32_t bytes, uint32_t line);
  void discard(void* address, uint32_t line);
  uint32_t add_global(void* address, uint32_t value, int order, uint32_t line);
  uint32_t load_acquire(const void* address, uint32_t line);
  uint64_t update_word(void* address, int update, uint64_t value, uint64_t expected, uint32_t line);
  void fence(int kind, uint32_t line);

  // sync.cpp
  void collective(int kind, void* args, uint32_t line);
  void run_warp_collective(int kind, Meeting& meeting, Thread* first);
  void run_group_collective(int kind, Meeting& meeting, Thread* first);
  void block_sync(uint32_t line);
  void named_barrier(uint32_t id, uint32_t threads, bool wait, uint32_t line);
  void complete_barrier(Block* block, Barrier& barrier, uint32_t id);
  void cluster_sync(uint32_t line);
  void check_exit_at_barriers(Block* block);
  void grid_wait(uint32_t line);

  // mbarrier.cpp
  Mbar& mbar_at(Block* block, uint32_t address, const Access& access, const Thread* thread);
  void mbar_init(uint32_t bar, uint32_t count, uint32_t line);
  void check_fenced(const Mbar& mbar, const Thread* thread, uint32_t line);
  void mbar_arrive(uint32_t bar, uint32_t expect_tx, uint32_t line);
  void mbar_arrive_cluster(uint32_t bar, uint32_t rank, uint32_t line);
  void mbar_wait(uint32_t bar, uint32_t parity, uint32_t line);
  void take_arrival(Block* block, Mbar& mbar, const Thread* thread);
  void complete_tx(Block* block, Mbar& mbar, uint32_t bytes);
  void maybe_complete(Block* block, Mbar& mbar);
  void acquire_phase(Thread* thread, Mbar& mbar);

  // copies.cpp
  void cp_async(uint32_t dst, const void* src, bool valid, uint32_t line);
  void cp_async_commit();
  void cp_async_wait(int pending, uint32_t line);
  void cp_async_arrive(uint32_t bar, uint32_t line);
  void perform_copies(Thread* thread, uint32_t up_to);
  void perform_copy(Thread* thread, const Thread::Copy& copy, uint32_t index);
  void bulk_load(uint32_t dst, const void* src, uint32_t bytes, uint32_t bar, uint32_t line);
  void tensor_load(uint32_t dst, const void* map, int rank, const int* at, uint32_t rows,
                   uint32_t bar, uint32_t blocks, uint32_t line);
  void tensor_prefetch(const void* map, int rank, const int* at, uint32_t line);
  std::string map_misuse(const void* map, int rank) const;
  void enqueue(Pending pending);
  void perform(const Pending& pending);
  void perform_tensor(const Pending& pending, Access access);

  // matrix.cpp, mfma.cpp, wmma.cpp and wgmma.cpp
  void ldmatrix(Meeting& meeting, Thread* first);
  void mma(Meeting& meeting);
  void mfma(Meeting& meeting);
  void wmma(Meeting& meeting, const Thread* first);
  void issue_wgmma(Meeting& meeting, Thread* first);
  void perform_wgmma(Block* block, uint32_t group, const Wgmma& op, bool deferred);
  void finish_wgmma(Block* block, uint32_t group, uint32_t up_to);

  Limits limits_;
  Timing timing_;
  bool races_;
  std::vector<Region>& regions_;
  Region* last_region_ = nullptr;
  Counters counters_;
  // Base and coordinates of what is prefetched and not yet loaded.
  std::set<std::array<int64_t, 4>> boxes_ahead_;
  Finding finding_;
  bool failed_ = false;

  const moejit_sim::Self** self_slot_ = nullptr;
  const void* args_ = nullptr;

  const EntryPlan* entry_ = nullptr;
  uint32_t entry_index_ = 0;
  uint64_t known_at_start_ = 0;
  uint64_t known_at_exit_ = 0;
  uint64_t known_at_trigger_ = 0;
  std::vector<uint64_t> known_after_;  // per entry: what its completion implies
  std::vector<uint8_t> entry_of_block_;

  Fiber scheduler_;
  Thread* current_ = nullptr;
  std::vector<std::unique_ptr<Block>> resident_;
  std::vector<std::unique_ptr<Block>> spare_;
  std::deque<Pending> pending_;
  uint32_t next_block_ = 0;  // how many blocks were started
  uint32_t most_resident_ = 1;
  uint64_t idle_rounds_ = 0;
  std::unordered_map<uintptr_t, Knowledge> sync_variables_;
};

}  // namespace moejit::internal::sim
