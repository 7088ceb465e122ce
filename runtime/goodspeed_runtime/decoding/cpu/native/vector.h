// Sixteen floats at a time, for AVX-512, AVX2 and any other processor.
//
// Sums that must not depend on the processor's width do not exist here: each build is one fixed order.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace goodspeed {

constexpr int kLanes = 16;

inline float widen_half(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16;
    const uint32_t exponent = (half >> 10) & 31, mantissa = half & 1023;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | (mantissa << 13);
    } else if (exponent) {
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else {
        const float subnormal = float(mantissa) * 5.9604644775390625e-8f;  // 2^-24
        std::memcpy(&bits, &subnormal, 4);
        bits |= sign;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline float widen(uint16_t bfloat) {
    const uint32_t bits = uint32_t(bfloat) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// Round to nearest, ties to even; NaN stays NaN.
inline uint16_t narrow(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

#if defined(__AVX512F__)

struct Vector {
    __m512 v;
};

inline Vector zero() { return {_mm512_setzero_ps()}; }
inline Vector all(float x) { return {_mm512_set1_ps(x)}; }
inline Vector load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vector x) { _mm512_storeu_ps(p, x.v); }
inline Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vector operator/(Vector a, Vector b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vector larger(Vector a, Vector b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vector load_bfloat(const uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
inline Vector load_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline void store_bfloat(uint16_t* p, Vector x) {
#if defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x.v));
#else
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(rounded));
#endif
}
// 32 whole numbers of 16 bits, or 16 of 32.
struct Integers {
    __m512i v;
};
inline Integers no_integers() { return {_mm512_setzero_si512()}; }
inline Integers load_shorts(const void* p) { return {_mm512_loadu_si512(p)}; }
inline Integers load_bytes(const void* p) { return {_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p))}; }
// The number in nibble `place` of each of 32 shorts.
inline Integers nibbles(Integers shorts, int place) {
    return {_mm512_and_si512(_mm512_srli_epi16(shorts.v, 4 * place), _mm512_set1_epi16(15))};
}
// sum += the products of both pairs of shorts; all lanes meet the same two activations.
inline Integers multiply_add(Integers sum, Integers pairs, int32_t activations) {
#if defined(__AVX512VNNI__)
    return {_mm512_dpwssd_epi32(sum.v, pairs.v, _mm512_set1_epi32(activations))};
#else
    return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs.v, _mm512_set1_epi32(activations)))};
#endif
}
inline Vector to_floats(Integers x) { return {_mm512_cvtepi32_ps(x.v)}; }
// Rounded to shorts, whose range the numbers do not leave.
inline void store_shorts(int16_t* p, Vector x) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x.v)));
}
inline Vector magnitude(Vector x) { return {_mm512_abs_ps(x.v)}; }
inline float sum(Vector x) { return _mm512_reduce_add_ps(x.v); }
inline float largest(Vector x) { return _mm512_reduce_max_ps(x.v); }
// 2^n for whole n within the normal exponents.
inline Vector power_of_two(Vector n) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}
inline Vector nearest(Vector x) { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

#elif defined(__AVX2__)

struct Vector {
    __m256 a, b;
};

inline Vector zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vector all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vector load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vector x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline Vector operator+(Vector a, Vector b) { return {_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)}; }
inline Vector operator-(Vector a, Vector b) { return {_mm256_sub_ps(a.a, b.a), _mm256_sub_ps(a.b, b.b)}; }
inline Vector operator*(Vector a, Vector b) { return {_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)}; }
inline Vector operator/(Vector a, Vector b) { return {_mm256_div_ps(a.a, b.a), _mm256_div_ps(a.b, b.b)}; }
inline Vector multiply_add(Vector a, Vector b, Vector c) {
    return {_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)};
}
inline Vector larger(Vector a, Vector b) { return {_mm256_max_ps(a.a, b.a), _mm256_max_ps(a.b, b.b)}; }
inline __m256 widen_eight(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Vector load_bfloat(const uint16_t* p) {
    return {widen_eight(_mm_loadu_si128((const __m128i*)p)), widen_eight(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline Vector load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline __m128i narrow_eight(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i unordered = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), unordered);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}
inline void store_bfloat(uint16_t* p, Vector x) {
    _mm_storeu_si128((__m128i*)p, narrow_eight(x.a));
    _mm_storeu_si128((__m128i*)(p + 8), narrow_eight(x.b));
}
struct Integers {
    __m256i a, b;
};
inline Integers no_integers() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Integers load_shorts(const void* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
inline Integers load_bytes(const void* p) {
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p + 1))};
}
inline Integers nibbles(Integers shorts, int place) {
    const __m256i low = _mm256_set1_epi16(15);
    return {_mm256_and_si256(_mm256_srli_epi16(shorts.a, 4 * place), low),
            _mm256_and_si256(_mm256_srli_epi16(shorts.b, 4 * place), low)};
}
inline Integers multiply_add(Integers sum, Integers pairs, int32_t activations) {
    const __m256i both = _mm256_set1_epi32(activations);
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(pairs.a, both)),
            _mm256_add_epi32(sum.b, _mm256_madd_epi16(pairs.b, both))};
}
inline Vector to_floats(Integers x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline void store_shorts(int16_t* p, Vector x) {
    const __m256i both = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(both, 0xd8));
}
inline Vector magnitude(Vector x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline float sum(Vector x) {
    const __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
inline float largest(Vector x) {
    const __m256 s = _mm256_max_ps(x.a, x.b);
    __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}
inline __m256 power_of_two_of(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline Vector power_of_two(Vector n) { return {power_of_two_of(n.a), power_of_two_of(n.b)}; }
inline Vector nearest(Vector x) {
    constexpr int how = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, how), _mm256_round_ps(x.b, how)};
}

#else

struct Vector {
    float v[kLanes];
};

template <class F>
inline Vector each(F f) {
    Vector out;
    for (int i = 0; i < kLanes; i++) out.v[i] = f(i);
    return out;
}
inline Vector all(float x) { return each([=](int) { return x; }); }
inline Vector zero() { return all(0); }
inline Vector load(const float* p) { return each([=](int i) { return p[i]; }); }
inline void store(float* p, Vector x) { std::memcpy(p, x.v, sizeof x.v); }
inline Vector operator+(Vector a, Vector b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
inline Vector operator-(Vector a, Vector b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
inline Vector operator*(Vector a, Vector b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
inline Vector operator/(Vector a, Vector b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
inline Vector multiply_add(Vector a, Vector b, Vector c) {
    return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Vector larger(Vector a, Vector b) { return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline Vector load_bfloat(const uint16_t* p) { return each([=](int i) { return widen(p[i]); }); }
inline Vector load_half(const uint16_t* p) { return each([=](int i) { return widen_half(p[i]); }); }
inline void store_bfloat(uint16_t* p, Vector x) {
    for (int i = 0; i < kLanes; i++) p[i] = narrow(x.v[i]);
}
struct Integers {
    union {
        int32_t v[kLanes];
        int16_t shorts[2 * kLanes];
    };
};
inline Integers no_integers() {
    Integers x;
    std::memset(&x, 0, sizeof x);
    return x;
}
inline Integers load_shorts(const void* p) {
    Integers x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline Integers load_bytes(const void* p) {
    Integers x;
    for (int i = 0; i < 2 * kLanes; i++) x.shorts[i] = ((const int8_t*)p)[i];
    return x;
}
inline Integers nibbles(Integers x, int place) {
    for (int i = 0; i < 2 * kLanes; i++) x.shorts[i] = int16_t((uint16_t(x.shorts[i]) >> (4 * place)) & 15);
    return x;
}
inline Integers multiply_add(Integers sum, Integers pairs, int32_t activations) {
    int16_t both[2];
    std::memcpy(both, &activations, 4);
    for (int i = 0; i < kLanes; i++) sum.v[i] += pairs.shorts[2 * i] * both[0] + pairs.shorts[2 * i + 1] * both[1];
    return sum;
}
inline Vector to_floats(Integers x) { return each([&](int i) { return float(x.v[i]); }); }
inline void store_shorts(int16_t* p, Vector x) {
    for (int i = 0; i < kLanes; i++) {
        const float value = std::nearbyint(x.v[i]);
        p[i] = int16_t(value > 32767 ? 32767 : value >= -32768 ? value : -32768);
    }
}
inline Vector magnitude(Vector x) { return each([&](int i) { return std::fabs(x.v[i]); }); }
inline float sum(Vector x) {
    float total = 0;
    for (float value : x.v) total += value;
    return total;
}
inline float largest(Vector x) {
    float found = x.v[0];
    for (float value : x.v) found = value > found ? value : found;
    return found;
}
inline Vector power_of_two(Vector n) {
    return each([&](int i) {
        const uint32_t bits = uint32_t(int(n.v[i]) + 127) << 23;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    });
}
inline Vector nearest(Vector x) { return each([&](int i) { return std::nearbyint(x.v[i]); }); }

#endif

// e^x for x <= 88, to about two units in the last place; 0 below -87, NaN for NaN.
inline Vector exponential(Vector x) {
    const Vector kept = larger(all(-87.0f), x);  // the second operand where one is NaN
    const Vector n = nearest(kept * all(1.44269504088896341f));
    Vector r = multiply_add(n, all(-0.693359375f), kept);
    r = multiply_add(n, all(2.12194440e-4f), r);
    Vector p = all(1.9875691500e-4f);
    p = multiply_add(p, r, all(1.3981999507e-3f));
    p = multiply_add(p, r, all(8.3334519073e-3f));
    p = multiply_add(p, r, all(4.1665795894e-2f));
    p = multiply_add(p, r, all(1.6666665459e-1f));
    p = multiply_add(p, r, all(5.0000001201e-1f));
    p = multiply_add(p, r * r, r + all(1.0f));
    return p * power_of_two(n);
}

}  // namespace goodspeed
