// Vectors of floats as wide as the instruction set this file is compiled for.
//
// GCC and Clang turn these types into single registers. A width other than the machine's is correct but slow: wider
// comparisons are taken apart lane by lane. Everything has internal linkage, because this header is compiled several
// times for different instruction sets and the linker must never mix them.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));  // also a mask: 0 or -1 in each lane
typedef int64_t Halves __attribute__((vector_size(kLanes * sizeof(int32_t))));

inline Floats broadcast(float value) { return value - Floats{}; }
inline Ints broadcast(int32_t value) { return value - Ints{}; }
inline Floats select(Ints mask, Floats yes, Floats no) { return mask ? yes : no; }
inline Floats masked(Ints mask, Floats value) { return mask ? value : Floats{}; }
inline Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
inline Floats maximum(Floats a, Floats b) { return a > b ? a : b; }

inline Floats lane_numbers() {
  Floats lanes;
  for (int i = 0; i < kLanes; i++) lanes[i] = float(i);
  return lanes;
}

inline bool any(Ints mask) {
  Halves halves;
  memcpy(&halves, &mask, sizeof mask);
  int64_t joined = 0;
  for (int i = 0; i < kLanes / 2; i++) joined |= halves[i];
  return joined != 0;
}

// Sum over lanes in a fixed order: halves are folded onto each other.
inline float sum(Floats value) {
  float lanes[kLanes];
  memcpy(lanes, &value, sizeof value);
  for (int width = kLanes / 2; width >= 1; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return lanes[0];
}

inline Floats square_root(Floats value) {
  for (int i = 0; i < kLanes; i++) value[i] = __builtin_sqrtf(value[i]);
  return value;
}

inline Floats logarithm(Floats value) {
  for (int i = 0; i < kLanes; i++) value[i] = __builtin_logf(value[i]);
  return value;
}

// exp(x) within 1e-7 relative for x in [-87, 88]; clamped below, infinite above.
// x = n ln 2 + r with |r| <= ln(2) / 2; e^r by a polynomial of degree 6, fitted from the cubic term on.
inline Floats exponential(Floats x) {
  constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
  x = maximum(x, broadcast(-87.f));
  Floats shifted = x * 1.44269504088896341f + kRound;
  Floats rest = x - (shifted - kRound) * 0.693147180559945f;
  Floats power = broadcast(1.39089e-3f);
  power = power * rest + 8.37178e-3f;
  power = power * rest + 4.166678e-2f;
  power = power * rest + 1.666649e-1f;
  power = power * rest + 0.5f;
  power = power * rest + 1.f;
  power = power * rest + 1.f;
  Ints exponent, bits;
  memcpy(&exponent, &shifted, sizeof shifted);
  memcpy(&bits, &power, sizeof power);
  bits += exponent << 23;  // the constant's own bits are shifted out
  memcpy(&power, &bits, sizeof bits);
  return select(x > 88.f, broadcast(__builtin_inff()), power);
}

// Lane i is `first[i * stride]`; lanes from `count` on repeat the last element, so that they hold no rubbish.
inline Floats load_strided(const float* first, int64_t stride, int count) {
  Floats value;
  for (int i = 0; i < kLanes; i++) value[i] = first[(i < count ? i : count - 1) * stride];
  return value;
}

inline void store_strided(float* first, int64_t stride, int count, Floats value) {
  for (int i = 0; i < count; i++) first[i * stride] = value[i];
}

inline Floats load(const float* from) {
  Floats value;
  memcpy(&value, from, sizeof value);
  return value;
}

inline void store(float* to, Floats value) { memcpy(to, &value, sizeof value); }

}  // namespace
