// Vectors of floats as wide as the instruction set this file is compiled for.
//
// GCC and Clang turn these types into single registers. A width other than the machine's is correct but slow: wider
// comparisons are taken apart lane by lane. Everything has internal linkage, because this header is compiled several
// times for different instruction sets and the linker must never mix them.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

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

inline bool any(Ints mask) {
#if defined(__AVX512DQ__)
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(__AVX__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps((__m128)mask) != 0;
#else
  Halves halves;
  memcpy(&halves, &mask, sizeof mask);
  int64_t joined = 0;
  for (int i = 0; i < kLanes / 2; i++) joined |= halves[i];
  return joined != 0;
#endif
}

typedef float Quad __attribute__((vector_size(4 * sizeof(float))));

// Folds halves onto each other until four lanes are left.
inline Quad fold(Floats value) {
#if defined(__AVX512DQ__)
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)value), _mm512_extractf32x8_ps((__m512)value, 1));
  return (Quad)_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif defined(__AVX__)
  return (Quad)_mm_add_ps(_mm256_castps256_ps128((__m256)value), _mm256_extractf128_ps((__m256)value, 1));
#else
  return value;
#endif
}

// Sums over lanes of four vectors at once, in a fixed order; together they cost little more than one alone.
inline Quad sums(Floats a, Floats b, Floats c, Floats d) {
  Quad rows[4] = {fold(a), fold(b), fold(c), fold(d)};
#if defined(__SSE2__)
  __m128 r0 = (__m128)rows[0], r1 = (__m128)rows[1], r2 = (__m128)rows[2], r3 = (__m128)rows[3];
  _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
  return ((Quad)r0 + (Quad)r1) + ((Quad)r2 + (Quad)r3);
#else
  Quad out;
  for (int i = 0; i < 4; i++) out[i] = (rows[i][0] + rows[i][1]) + (rows[i][2] + rows[i][3]);
  return out;
#endif
}

inline float sum(Floats value) {
  const Quad quad = fold(value);
  return (quad[0] + quad[1]) + (quad[2] + quad[3]);
}

inline Floats square_root(Floats value) {
  for (int i = 0; i < kLanes; i++) value[i] = __builtin_sqrtf(value[i]);
  return value;
}

inline Floats logarithm(Floats value) {
  for (int i = 0; i < kLanes; i++) value[i] = __builtin_logf(value[i]);
  return value;
}

// exp(x) within 1e-7 relative for x in [-87, 88]; rubbish outside, for the caller to mask.
// x = n ln 2 + r with |r| <= ln(2) / 2; e^r by a polynomial of degree 6, fitted from the cubic term on.
inline Floats small_exponential(Floats x) {
  constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
  const Floats shifted = x * 1.44269504088896341f + kRound;
  const Floats rest = x - (shifted - kRound) * 0.693147180559945f;
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
  return power;
}

// The same for any x: no smaller than exp(-87), infinite above 88, NaN for NaN.
inline Floats exponential(Floats x) {
  const Floats finite = small_exponential(minimum(maximum(x, broadcast(-87.f)), broadcast(88.f)));
  return select(x <= 88.f, finite, x * __builtin_inff());
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

}  // namespace
