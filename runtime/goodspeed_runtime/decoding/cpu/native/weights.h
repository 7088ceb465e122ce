// Matrices laid out for products of few rows, in the least bytes that hold their values.
//
// A block is 16 outputs, a group 32 inputs of it. Floats lie one input after the other; bfloat16, where the
// processor multiplies pairs of them, and integers in pairs of inputs.
#pragma once

#include <cstdlib>
#include <cstring>
#include <new>

#include "vector.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace goodspeed {

constexpr int kGroup = 32;

enum class Format : int { kBfloat = 0, kFloat = 1, kNibbles = 2, kBytes = 3 };

inline bool of_integers(Format format) { return format == Format::kNibbles || format == Format::kBytes; }

// float32 activations, float32 products; weights in float32 or bfloat16.
struct FloatMath {
    using Element = float;
    static constexpr bool kPairs = false;
    static constexpr int kSteps = kGroup;  // of a group, each with one word of an activation
    using Weights = Vector;
    static void store_activation(float* p, Vector x) { store(p, x); }
    static Vector multiply_add(Vector sum, Weights w, const uint32_t* word) {
        float x;
        std::memcpy(&x, word, 4);
        return goodspeed::multiply_add(w, all(x), sum);
    }
    template <Format format>
    static Weights load(const uint8_t* group, int step) {
        if constexpr (format == Format::kFloat)
            return goodspeed::load((const float*)group + kLanes * step);
        else
            return load_bfloat((const uint16_t*)group + kLanes * step);
    }
};

#if defined(__AVX512BF16__)
// bfloat16 activations and weights in pairs, products summed in float32.
struct PairMath {
    using Element = uint16_t;
    static constexpr bool kPairs = true;
    static constexpr int kSteps = kGroup / 2;
    using Weights = __m512i;
    static void store_activation(uint16_t* p, Vector x) { store_bfloat(p, x); }
    static Vector multiply_add(Vector sum, Weights w, const uint32_t* word) {
        return {_mm512_dpbf16_ps(sum.v, (__m512bh)w, (__m512bh)_mm512_set1_epi32(int(*word)))};
    }
    template <Format format>
    static Weights load(const uint8_t* group, int step) {
        static_assert(format == Format::kBfloat);
        return _mm512_loadu_si512(group + 64 * step);
    }
};
#endif

// Integers are followed by the scales of the 16 outputs and, of nibbles, by their minima, in half precision:
// the weight is scale * integer + minimum.
inline size_t integer_bytes(Format format) { return format == Format::kNibbles ? 256 : 512; }

inline size_t group_bytes(Format format) {
    switch (format) {
        case Format::kBfloat: return 1024;
        case Format::kFloat: return 2048;
        case Format::kNibbles: return 320;
        default: return 544;
    }
}

// `outputs` x `inputs`, both padded with zeros to whole blocks and groups.
struct Matrix {
    int outputs = 0, blocks = 0, groups = 0;
    Format format = Format::kBfloat;
    uint8_t* data = nullptr;

    Matrix() = default;
    Matrix(const Matrix&) = delete;
    Matrix& operator=(const Matrix&) = delete;
    ~Matrix() { std::free(data); }

    size_t block_bytes() const { return group_bytes(format) * size_t(groups); }
    const uint8_t* block(int index) const { return data + block_bytes() * size_t(index); }

    void reserve(int rows, int columns, Format kind) {
        outputs = rows, format = kind;
        blocks = (rows + kLanes - 1) / kLanes, groups = (columns + kGroup - 1) / kGroup;
        constexpr size_t huge = size_t(1) << 21;
        const size_t wanted = block_bytes() * size_t(blocks), page = wanted > 4 * huge ? huge : 4096;
        std::free(data);
        data = static_cast<uint8_t*>(std::aligned_alloc(page, (wanted + page - 1) / page * page));
        if (!data) throw std::bad_alloc();
#if defined(__linux__)
        if (page == huge) madvise(data, (wanted + page - 1) / page * page, MADV_HUGEPAGE);
#endif
        std::memset(data, 0, wanted);
    }

    // From plain rows: bfloat16 or float32, `[outputs, columns]`.
    template <class Number>
    void fill(const Number* rows, int columns, bool pairs) {
        for (int n = 0; n < outputs; n++) {
            Number* base = (Number*)(data + block_bytes() * size_t(n / kLanes));
            const Number* row = rows + size_t(n) * columns;
            const int lane = n % kLanes;
            for (int k = 0; k < columns; k++)
                base[pairs ? size_t(k / 2) * 2 * kLanes + 2 * lane + k % 2 : size_t(k) * kLanes + lane] = row[k];
        }
    }

    // From integers `[outputs, columns]`: below 16 for nibbles, of any sign for bytes; scales and minima are
    // half-precision `[outputs, columns / 32]`.
    void fill_integers(const int8_t* integers, const uint16_t* scales, const uint16_t* minima, int columns) {
        for (int n = 0; n < outputs; n++)
            for (int g = 0; g < groups; g++) {
                const int lane = n % kLanes;
                uint8_t* group = data + block_bytes() * size_t(n / kLanes) + group_bytes(format) * size_t(g);
                uint16_t* tail = (uint16_t*)(group + integer_bytes(format));
                tail[lane] = scales[size_t(n) * groups + g];
                if (format == Format::kNibbles) tail[kLanes + lane] = minima[size_t(n) * groups + g];
                for (int k = 0; k < kGroup; k++) {
                    const int8_t value = integers[size_t(n) * columns + g * kGroup + k];
                    const int at = 2 * lane + k % 2, step = k / 2;
                    if (format == Format::kBytes)
                        group[2 * kLanes * step + at] = uint8_t(value);
                    else
                        ((uint16_t*)group)[2 * kLanes * (step / 4) + at] |= uint16_t(value << (4 * (step % 4)));
                }
            }
    }
};

}  // namespace goodspeed
