// Packed weights for C (moejit/pack.h).
#include "moejit/moejit_c.h"
#include "moejit/pack.h"
#include "runtime/capi_guard.h"
#include "runtime/capi_handles.h"

extern "C" {

moejit_status moejit_packed_bytes(const moejit_config* config, const char* device,
                                  int64_t* w13_bytes, int64_t* w2_bytes) {
  return moejit::internal::guarded([&]() -> moejit::Status {
    MOEJIT_REQUIRE(config);
    MOEJIT_REQUIRE(w13_bytes);
    MOEJIT_REQUIRE(w2_bytes);
    *w13_bytes = *w2_bytes = 0;
    const auto bytes = moejit::packed_bytes(config->config, device == nullptr ? "auto" : device);
    if (!bytes.ok()) return bytes.status();
    *w13_bytes = bytes->w13;
    *w2_bytes = bytes->w2;
    return {};
  });
}

moejit_status moejit_pack_weights(const moejit_config* config, const char* device, const void* w13,
                                  const void* w2, void* packed_w13, void* packed_w2) {
  return moejit::internal::guarded([&]() -> moejit::Status {
    MOEJIT_REQUIRE(config);
    return moejit::pack_weights(config->config, w13, w2, packed_w13, packed_w2,
                                device == nullptr ? "auto" : device);
  });
}

}  // extern "C"
