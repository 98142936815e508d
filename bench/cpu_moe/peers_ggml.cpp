// The peer of ggml's users: the graph that llama.cpp makes of such a layer, by ggml or, with
// MOEJIT_PEER_IK_LLAMA, by the ggml inside ik_llama.cpp with its fused operators. A module of its
// own for each, as both export the same names.
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>
#ifndef MOEJIT_PEER_IK_LLAMA
#include <ggml-cpu.h>
#endif

#include <chrono>
#include <cstdio>
#include <cstring>

#include "bench/cpu_moe/peer.h"

#ifdef MOEJIT_PEER_IK_LLAMA
// What its option to repack weights at run time calls; exported, in no installed header.
extern "C" void iqk_repack_tensor(ggml_tensor* tensor);
#endif

namespace moejit_bench {
namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "ggml peer: %s\n", what);
  std::abort();
}

ggml_context* make_context(size_t tensors) {
  // Tensors without memory of their own: weights lie elsewhere, the rest is planned by
  // ggml_gallocr.
  ggml_context* context =
      ggml_init({.mem_size = tensors * ggml_tensor_overhead() + ggml_graph_overhead(),
                 .mem_buffer = nullptr,
                 .no_alloc = true});
  require(context != nullptr, "ggml_init");
  return context;
}

class GgmlPeer : public Peer {
 public:
  GgmlPeer(const moejit::MoeConfig& config, const void* w13, const void* w2, int num_threads,
           bool repacked)
      : config_(config), num_threads_(num_threads), weights_(make_context(16)) {
    const int64_t H = config.hidden_size, I = config.intermediate_size;
    const int64_t half = I * H * 2;  // bytes of one expert's gate, or up
    gate_ = weights(w13, H, I, 2 * half, 0, repacked);
    up_ = weights(w13, H, I, 2 * half, half, repacked);
    down_ = weights(w2, I, H, half, 0, repacked);
#ifndef MOEJIT_PEER_IK_LLAMA
    // As llama.cpp's programs do: threads that live on between graphs.
    ggml_threadpool_params params = ggml_threadpool_params_default(num_threads);
    pool_ = ggml_threadpool_new(&params);
#endif
  }
  GgmlPeer(const GgmlPeer&) = delete;
  GgmlPeer& operator=(const GgmlPeer&) = delete;
  ~GgmlPeer() override {
    drop_graph();
#ifndef MOEJIT_PEER_IK_LLAMA
    ggml_threadpool_free(pool_);
#endif
    ggml_free(weights_);
  }

  std::string version() const override {
#ifdef MOEJIT_PEER_IK_LLAMA
    return "not told by the library";
#else
    return std::string(ggml_version()) + ", commit " + ggml_commit();
#endif
  }

  void prepare(int64_t tokens, const std::vector<int64_t>&) override {
    if (tokens == tokens_) return;
    drop_graph();
    tokens_ = tokens;
    const int64_t H = config_.hidden_size, K = config_.top_k;
    graph_context_ = make_context(64 + 4 * static_cast<size_t>(K));
    x_values_.resize(static_cast<size_t>(tokens * H));
    ids_values_.resize(static_cast<size_t>(tokens * K));
    gates_values_.resize(static_cast<size_t>(tokens * K));
    ggml_tensor* x = ggml_new_tensor_3d(graph_context_, GGML_TYPE_F32, H, 1, tokens);
    ggml_tensor* ids = ggml_new_tensor_2d(graph_context_, GGML_TYPE_I32, K, tokens);
    ggml_tensor* gates = ggml_new_tensor_3d(graph_context_, GGML_TYPE_F32, 1, K, tokens);
    x->data = x_values_.data();
    ids->data = ids_values_.data();
    gates->data = gates_values_.data();
    graph_ = ggml_new_graph(graph_context_);
    out_ = build(x, ids, gates);
    ggml_set_output(out_);
    ggml_build_forward_expand(graph_, out_);
    buffers_ = ggml_gallocr_new(ggml_backend_cpu_buffer_type());
    require(ggml_gallocr_alloc_graph(buffers_, graph_), "ggml_gallocr_alloc_graph");
#ifdef MOEJIT_PEER_IK_LLAMA
    plan_ = ggml_graph_plan(graph_, num_threads_);
#else
    plan_ = ggml_graph_plan(graph_, num_threads_, pool_);
#endif
    work_.resize(plan_.work_size);
    plan_.work_data = work_.data();
  }

  double run(int64_t tokens, const void* x, const int32_t* ids, const float* weights,
             void* out) override {
    prepare(tokens, {});
    // f32 between the layers is their form: x comes and the result goes in it.
    const auto* from = static_cast<const uint16_t*>(x);
    for (size_t i = 0; i < x_values_.size(); ++i) {
      const uint32_t bits = uint32_t{from[i]} << 16;
      std::memcpy(&x_values_[i], &bits, 4);
    }
    std::memcpy(ids_values_.data(), ids, ids_values_.size() * sizeof(int32_t));
    std::memcpy(gates_values_.data(), weights, gates_values_.size() * sizeof(float));
    const auto start = std::chrono::steady_clock::now();
    const ggml_status status = ggml_graph_compute(graph_, &plan_);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    require(status == GGML_STATUS_SUCCESS, "ggml_graph_compute");
    const auto* result = static_cast<const char*>(out_->data);
    auto* to = static_cast<uint16_t*>(out);
    for (size_t i = 0; i < x_values_.size(); ++i) {
      uint32_t bits;
      std::memcpy(&bits, result + 4 * i, 4);
      to[i] = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
    return seconds.count();
  }

 private:
  // [E, n, k] at `offset` of every `stride` bytes of `data`; repacked, a copy.
  ggml_tensor* weights(const void* data, int64_t k, int64_t n, int64_t stride, int64_t offset,
                       bool repacked) {
    const int64_t E = config_.num_experts, bytes = k * n * 2;
    const char* first = static_cast<const char*>(data) + offset;
    ggml_tensor* tensor = ggml_new_tensor_3d(weights_, GGML_TYPE_BF16, k, n, E);
    if (!repacked) {
      tensor->data = const_cast<char*>(first);
      tensor->nb[2] = static_cast<size_t>(stride);
      tensor->nb[3] = static_cast<size_t>(stride * E);
      return tensor;
    }
    copies_.push_back(huge_pages(static_cast<size_t>(bytes * E)));
    tensor->data = copies_.back().get();
    for (int64_t e = 0; e < E; ++e) {
      std::memcpy(static_cast<char*>(tensor->data) + e * bytes, first + e * stride,
                  static_cast<size_t>(bytes));
    }
#ifdef MOEJIT_PEER_IK_LLAMA
    iqk_repack_tensor(tensor);
#endif
    return tensor;
  }

  ggml_tensor* build(ggml_tensor* x, ggml_tensor* ids, ggml_tensor* gates) {
    ggml_context* c = graph_context_;
#ifdef MOEJIT_PEER_IK_LLAMA
    ggml_tensor* h = ggml_moe_up_gate(c, up_, gate_, x, ids, GGML_UNARY_OP_SILU);
    return ggml_mul_multi_add(c, ggml_mul_mat_id(c, down_, h, ids), gates);
#else
    ggml_tensor* up = ggml_mul_mat_id(c, up_, x, ids);
    ggml_tensor* gate = ggml_mul_mat_id(c, gate_, x, ids);
    ggml_tensor* y = ggml_mul_mat_id(c, down_, ggml_swiglu_split(c, gate, up), ids);
    y = ggml_mul(c, y, gates);
    const auto expert = [&](int64_t k) {
      ggml_tensor* view =
          ggml_view_2d(c, y, y->ne[0], y->ne[2], y->nb[2], static_cast<size_t>(k) * y->nb[1]);
      ggml_build_forward_expand(graph_, view);
      return view;
    };
    ggml_tensor* sum = expert(0);
    for (int64_t k = 1; k < config_.top_k; ++k) sum = ggml_add(c, sum, expert(k));
    return config_.top_k > 1 ? sum : ggml_cont(c, sum);
#endif
  }

  void drop_graph() {
    if (buffers_ != nullptr) ggml_gallocr_free(buffers_);
    if (graph_context_ != nullptr) ggml_free(graph_context_);
    buffers_ = nullptr;
    graph_context_ = nullptr;
  }

  moejit::MoeConfig config_;
  int num_threads_;
  ggml_context* weights_;
  std::vector<std::shared_ptr<void>> copies_;
  ggml_tensor *gate_ = nullptr, *up_ = nullptr, *down_ = nullptr;
#ifndef MOEJIT_PEER_IK_LLAMA
  ggml_threadpool* pool_ = nullptr;
#endif
  // For one number of tokens.
  int64_t tokens_ = 0;
  ggml_context* graph_context_ = nullptr;
  ggml_gallocr_t buffers_ = nullptr;
  ggml_cgraph* graph_ = nullptr;
  ggml_tensor* out_ = nullptr;
  ggml_cplan plan_ = {};
  std::vector<float> x_values_, gates_values_;
  std::vector<int32_t> ids_values_;
  std::vector<uint8_t> work_;
};

}  // namespace
}  // namespace moejit_bench

extern "C" __attribute__((visibility("default"))) moejit_bench::Peer* moejit_bench_make_peer(
    const moejit::MoeConfig& config, const void* w13, const void* w2, int num_threads,
    bool repacked) {
  return new moejit_bench::GgmlPeer(config, w13, w2, num_threads, repacked);
}
