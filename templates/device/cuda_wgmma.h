// wgmma (9.7.15): the asynchronous warpgroup product of sm_90a. One branch per width, since each
// accumulator register is an operand of its own.
#pragma once

#include "device/cuda_sm90.h"

namespace dev {

MOEJIT_DEVICE void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
MOEJIT_DEVICE void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N>
MOEJIT_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
template <int N>
MOEJIT_DEVICE void wgmma_hold(f32 (&d)[N]) {
  MOEJIT_UNROLL
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// clang-format off
#define MOEJIT_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define MOEJIT_D16(i) MOEJIT_D8(i), MOEJIT_D8(i + 4)
#define MOEJIT_D32(i) MOEJIT_D16(i), MOEJIT_D16(i + 8)
#define MOEJIT_D64(i) MOEJIT_D32(i), MOEJIT_D32(i + 16)
#define MOEJIT_D128(i) MOEJIT_D64(i), MOEJIT_D64(i + 32)
#define MOEJIT_WGMMA(N, TYPE, REGS, A, B, P, T, OUTS) \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" P ", 0;\n"                                  \
               "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" REGS "}, "    \
               "%" A ", %" B ", p, 1, 1, 0, %" T ";\n}"                                          \
               : OUTS : "l"(desc_a), "l"(desc_b), "r"(static_cast<u32>(accumulate)), "n"(TransB))
#define MOEJIT_R8 "%0,%1,%2,%3"
#define MOEJIT_R16 "%0,%1,%2,%3,%4,%5,%6,%7"
#define MOEJIT_R24 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11"
#define MOEJIT_R32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define MOEJIT_R48 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23"
#define MOEJIT_R64 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31"
#define MOEJIT_R80 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39"
#define MOEJIT_R96 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define MOEJIT_R112 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55"
#define MOEJIT_R128 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define MOEJIT_R144 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71"
#define MOEJIT_R160 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71," \
  "%72,%73,%74,%75,%76,%77,%78,%79"
#define MOEJIT_R192 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71," \
  "%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define MOEJIT_R256 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71," \
  "%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95," \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119," \
  "%120,%121,%122,%123,%124,%125,%126,%127"

#define MOEJIT_WGMMA_ALL(TYPE)                                                                  \
  if constexpr (N == 8) MOEJIT_WGMMA("8", TYPE, MOEJIT_R8, "4", "5", "6", "7", MOEJIT_LIST(MOEJIT_D8(0))); \
  else if constexpr (N == 16) MOEJIT_WGMMA("16", TYPE, MOEJIT_R16, "8", "9", "10", "11", MOEJIT_LIST(MOEJIT_D16(0))); \
  else if constexpr (N == 24) MOEJIT_WGMMA("24", TYPE, MOEJIT_R24, "12", "13", "14", "15", MOEJIT_LIST(MOEJIT_D16(0), MOEJIT_D8(8))); \
  else if constexpr (N == 32) MOEJIT_WGMMA("32", TYPE, MOEJIT_R32, "16", "17", "18", "19", MOEJIT_LIST(MOEJIT_D32(0))); \
  else if constexpr (N == 48) MOEJIT_WGMMA("48", TYPE, MOEJIT_R48, "24", "25", "26", "27", MOEJIT_LIST(MOEJIT_D32(0), MOEJIT_D16(16))); \
  else if constexpr (N == 64) MOEJIT_WGMMA("64", TYPE, MOEJIT_R64, "32", "33", "34", "35", MOEJIT_LIST(MOEJIT_D64(0))); \
  else if constexpr (N == 80) MOEJIT_WGMMA("80", TYPE, MOEJIT_R80, "40", "41", "42", "43", MOEJIT_LIST(MOEJIT_D64(0), MOEJIT_D16(32))); \
  else if constexpr (N == 96) MOEJIT_WGMMA("96", TYPE, MOEJIT_R96, "48", "49", "50", "51", MOEJIT_LIST(MOEJIT_D64(0), MOEJIT_D32(32))); \
  else if constexpr (N == 112) MOEJIT_WGMMA("112", TYPE, MOEJIT_R112, "56", "57", "58", "59", MOEJIT_LIST(MOEJIT_D64(0), MOEJIT_D32(32), MOEJIT_D16(48))); \
  else if constexpr (N == 128) MOEJIT_WGMMA("128", TYPE, MOEJIT_R128, "64", "65", "66", "67", MOEJIT_LIST(MOEJIT_D128(0))); \
  else if constexpr (N == 144) MOEJIT_WGMMA("144", TYPE, MOEJIT_R144, "72", "73", "74", "75", MOEJIT_LIST(MOEJIT_D128(0), MOEJIT_D16(64))); \
  else if constexpr (N == 160) MOEJIT_WGMMA("160", TYPE, MOEJIT_R160, "80", "81", "82", "83", MOEJIT_LIST(MOEJIT_D128(0), MOEJIT_D32(64))); \
  else if constexpr (N == 192) MOEJIT_WGMMA("192", TYPE, MOEJIT_R192, "96", "97", "98", "99", MOEJIT_LIST(MOEJIT_D128(0), MOEJIT_D64(64))); \
  else if constexpr (N == 256) MOEJIT_WGMMA("256", TYPE, MOEJIT_R256, "128", "129", "130", "131", MOEJIT_LIST(MOEJIT_D128(0), MOEJIT_D128(64))); \
  else static_assert(N == 8, "no such wgmma width")

#define MOEJIT_LIST(...) __VA_ARGS__

template <int N, int TransB, int M>
MOEJIT_DEVICE void wgmma_bf16(f32 (&d)[M], u64 desc_a, u64 desc_b, bool accumulate) {
  static_assert(M >= N / 2);
  MOEJIT_WGMMA_ALL("bf16");
}
template <int N, int TransB, int M>
MOEJIT_DEVICE void wgmma_f16(f32 (&d)[M], u64 desc_a, u64 desc_b, bool accumulate) {
  static_assert(M >= N / 2);
  MOEJIT_WGMMA_ALL("f16");
}
// clang-format on

}  // namespace dev
