// Attention of some queries of one sequence over its keys and values, where the cache keeps them.
//
// Keys and values are read in blocks at fixed positions, so that a query's sums are in one order whatever
// else is in the pass.
#pragma once

#include <algorithm>
#include <vector>

#include "product.h"

namespace goodspeed {

// One key-value head of one slot: rows of `size` elements, `stride` elements apart.
template <class Kept>
struct Head {
    const Kept* keys;
    const Kept* values;
    size_t stride;
    int size;
};

inline Vector load_kept(const float* p) { return load(p); }
inline Vector load_kept(const uint16_t* p) { return load_bfloat(p); }
inline void store_kept(float* p, Vector x) { store(p, x); }
inline void store_kept(uint16_t* p, Vector x) { store_bfloat(p, x); }

#if defined(__AVX512BF16__)
// 16 rows of 16 words to 16 columns of them.
inline void transpose(__m512i* r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

// Scores of all queries with 16 keys from `first` on; those from `end` on are not read and score 0.
inline void score_block(const Head<uint16_t>& head, int first, int end, const uint16_t* queries, int count,
                        float* scores, size_t width, uint8_t* scratch, PairMath) {
    const int words = head.size / 2;
    for (int i = 0; i < 16; i++) {
        fetch((const uint8_t*)(head.keys + size_t(first + 16 + i) * head.stride), size_t(head.size) * 2);
        fetch((const uint8_t*)(head.values + size_t(first + i) * head.stride), size_t(head.size) * 2);
    }
    for (int w = 0; w < words; w += 16) {
        __m512i rows[16];
        const __mmask16 some = words - w >= 16 ? 0xffff : __mmask16((1 << (words - w)) - 1);
        for (int i = 0; i < 16; i++)
            rows[i] = first + i < end ? _mm512_maskz_loadu_epi32(some, head.keys + size_t(first + i) * head.stride + 2 * w)
                                      : _mm512_setzero_si512();
        transpose(rows);
        for (int i = 0; i < 16 && w + i < words; i++) _mm512_storeu_si512(scratch + 64 * (w + i), rows[i]);
    }
    // Heads of 16 are half a group: the other half is zero.
    for (int w = words; w % (kGroup / 2); w++) std::memset(scratch + 64 * w, 0, 64);
    const uint8_t* block = scratch;
    Activations x;
    x.elements = const_cast<uint16_t*>(queries), x.groups = (words + 15) / 16;
    product_in<PairMath, Format::kBfloat>(&block, 1, x, count,
                                          [&](int, int row, Vector sum) { store(scores + row * width, sum); });
}

// 16 columns of values, two rows a step.
struct ValuePairs {
    const uint16_t* p;
    size_t stride;
    PairMath::Weights at(int step) const {
        const __m256i low = _mm256_loadu_si256((const __m256i*)(p + size_t(2 * step) * stride));
        const __m256i high = _mm256_loadu_si256((const __m256i*)(p + size_t(2 * step + 1) * stride));
        const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                           8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
        return _mm512_permutexvar_epi16(_mm512_load_si512(order), both);
    }
};
inline ValuePairs value_source(const uint16_t* p, size_t stride, PairMath) { return {p, stride}; }
#endif

template <class Kept>
inline void score_block(const Head<Kept>& head, int first, int end, const float* queries, int count, float* scores,
                        size_t width, uint8_t*, FloatMath) {
    const int padded = (head.size + kGroup - 1) / kGroup * kGroup;
    for (int i = 0; i < kLanes; i++) {
        const Kept* key = head.keys + size_t(first + i) * head.stride;
        for (int q = 0; q < count; q++) {
            Vector total = zero();
            if (first + i < end)
                for (int d = 0; d < head.size; d += kLanes)
                    total = multiply_add(load_kept(key + d), load(queries + size_t(q) * padded + d), total);
            scores[q * width + i] = sum(total);
        }
    }
}

template <class Kept>
struct Values {
    const Kept* p;
    size_t stride;
    Vector at(int step) const { return load_kept(p + size_t(step) * stride); }
};
template <class Kept>
inline Values<Kept> value_source(const Kept* p, size_t stride, FloatMath) {
    return {p, stride};
}

// sums[row] += weights[row] * values, step by step, so that one sum may go on over several sources.
template <class Math, int kRows, class Source>
inline void mix(Source source, int steps, const uint32_t* x, size_t width, Vector* sums) {
    Vector sum[kRows];
    for (int r = 0; r < kRows; r++) sum[r] = sums[r];
    for (int step = 0; step < steps; step++) {
        const auto weights = source.at(step);
#pragma GCC unroll 12
        for (int r = 0; r < kRows; r++) sum[r] = Math::multiply_add(sum[r], weights, x + size_t(r) * width + step);
    }
    for (int r = 0; r < kRows; r++) sums[r] = sum[r];
}

template <class Math, class Source>
inline void mix_rows(Source source, int steps, const uint32_t* x, size_t width, int rows, Vector* sums) {
    for (; rows >= 4; rows -= 4, x += 4 * width, sums += 4) mix<Math, 4>(source, steps, x, width, sums);
    switch (rows) {
        case 3: return mix<Math, 3>(source, steps, x, width, sums);
        case 2: return mix<Math, 2>(source, steps, x, width, sums);
        case 1: return mix<Math, 1>(source, steps, x, width, sums);
    }
}

// Per query: which positions it sees, [from, to).
struct Sight {
    int from, to;
};

// Buffers of one thread, for up to `queries` queries of a context.
template <class Math>
struct AttentionScratch {
    std::vector<float> scores;
    std::vector<typename Math::Element> weights;
    std::vector<uint8_t> keys;
    std::vector<float> tail;
};

// out[query] = softmax(scaling * keys query) values, float32 `[count, size]`, `count` at most kStrip.
//
// `queries` is `[count, size padded to a group]`. Values of positions that nobody sees are never read.
template <class Math, class Kept>
inline void attend(const Head<Kept>& head, const typename Math::Element* queries, const Sight* sights, int count,
                   float scaling, AttentionScratch<Math>& scratch, float* out) {
    using Element = typename Math::Element;
    int from = sights[0].from, to = sights[0].to;
    for (int q = 1; q < count; q++) from = std::min(from, sights[q].from), to = std::max(to, sights[q].to);
    from = from / kGroup * kGroup;
    const size_t span = size_t((to - from + kGroup - 1) / kGroup * kGroup);
    const size_t padded = size_t((head.size + kGroup - 1) / kGroup * kGroup);
    scratch.scores.resize(std::max(scratch.scores.size(), count * span));
    scratch.weights.resize(std::max(scratch.weights.size(), count * span));
    scratch.keys.resize(std::max(scratch.keys.size(), padded * 32 + 64));
    float* scores = scratch.scores.data();
    for (size_t i = 0; i < span; i += kLanes)
        score_block(head, from + int(i), to, queries, count, scores + i, span, scratch.keys.data(), Math());

    float share[kStrip];
    for (int q = 0; q < count; q++) {
        float* row = scores + q * span;
        const int low = sights[q].from - from, high = sights[q].to - from;
        for (int i = 0; i < low; i++) row[i] = -INFINITY;
        for (size_t i = size_t(high); i < span; i++) row[i] = -INFINITY;
        Vector most = all(-INFINITY);
        for (size_t i = 0; i < span; i += kLanes) most = larger(load(row + i), most);
        const Vector top = all(largest(most) * scaling);
        Vector total = zero();
        Element* weights = scratch.weights.data() + q * span;
        for (size_t i = 0; i < span; i += kLanes) {
            const Vector weight = exponential(load(row + i) * all(scaling) - top);
            store(row + i, weight);
        }
        // Hidden positions weigh nothing at all, not e^-87.
        for (int i = 0; i < low; i++) row[i] = 0;
        for (size_t i = size_t(high); i < span; i++) row[i] = 0;
        for (size_t i = 0; i < span; i += kLanes) {
            const Vector weight = load(row + i);
            total = total + weight;
            Math::store_activation(weights + i, weight);
        }
        share[q] = 1.0f / sum(total);
    }

    // Whole groups of values from the cache, the last ones from a copy that ends in zeros.
    const int steps_a_group = Math::kSteps, whole = int(span) / kGroup - ((to - from) % kGroup ? 1 : 0);
    scratch.tail.resize(size_t(kGroup) * kLanes);
    Kept* tail = (Kept*)scratch.tail.data();
    const uint32_t* words = (const uint32_t*)scratch.weights.data();
    const size_t width = span * sizeof(Element) / 4;
    for (int d = 0; d < head.size; d += kLanes) {
        const Kept* column = head.values + size_t(from) * head.stride + d;
        Vector sums[kStrip];
        for (int q = 0; q < count; q++) sums[q] = zero();
        mix_rows<Math>(value_source(column, head.stride, Math()), whole * steps_a_group, words, width, count, sums);
        if ((to - from) % kGroup) {
            const int left = (to - from) % kGroup;
            std::memset((void*)tail, 0, sizeof(Kept) * kGroup * kLanes);
            for (int i = 0; i < left; i++)
                std::memcpy(tail + kLanes * i, column + size_t(whole * kGroup + i) * head.stride, sizeof(Kept) * kLanes);
            mix_rows<Math>(value_source(tail, size_t(kLanes), Math()), steps_a_group, words + whole * steps_a_group, width,
                           count, sums);
        }
        for (int q = 0; q < count; q++) store(out + size_t(q) * head.size + d, sums[q] * all(share[q]));
    }
}

}  // namespace goodspeed
