// Rows of activations times blocks of weights.
//
// Every output of every row is one sum in one order over the inputs, whatever other rows there are: what
// shares a pass does not change a bit.
#pragma once

#include <utility>

#include "weights.h"

namespace goodspeed {

#if defined(__AVX512F__)
constexpr int kStrip = 12;    // rows of one block whose sums stay in registers
constexpr int kTogether = 4;  // rows of two blocks
#else
constexpr int kStrip = 4;
constexpr int kTogether = 2;
#endif

// Asks for what a later piece of work reads: blocks are too short for the processor to notice streams in time.
inline void fetch(const uint8_t* p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

// Rows as products read them, `groups` groups each: plain elements, or, for matrices of integers, integers of
// 16 bits with a scale a group. A group's integers are off by at most a 65,534th of its largest number, where
// bfloat16 is off by a 512th of each.
struct Activations {
    void* elements = nullptr;     // [rows, groups * 32]
    int16_t* integers = nullptr;  // [rows, groups * 32]
    float* scales = nullptr;      // [rows, groups]
    float* sums = nullptr;        // [rows, groups], of the numbers that the integers stand for
    int groups = 0;

    // Numbers 32 * group to 32 * group + 31 of a row.
    template <class Math>
    void put(int row, int group, Vector low, Vector high, bool as_integers) const {
        const size_t at = size_t(row) * groups + group;
        if (!as_integers) {
            auto* out = static_cast<typename Math::Element*>(elements) + at * kGroup;
            Math::store_activation(out, low);
            Math::store_activation(out + kLanes, high);
            return;
        }
        const float most = largest(larger(magnitude(low), magnitude(high)));
        const Vector factor = all(most > 0 ? 32767.0f / most : 0.0f);
        low = nearest(low * factor), high = nearest(high * factor);
        store_shorts(integers + at * kGroup, low);
        store_shorts(integers + at * kGroup + kLanes, high);
        const float total = sum(low + high);
        scales[at] = most / 32767.0f;
        // A number that is not finite makes its row so; integers would hide it.
        sums[at] = total * scales[at];
        if (!(total - total == 0.0f)) scales[at] = sums[at] = NAN;
    }
};

// sums[block][row] of `kRows` rows from x on, `width` words apart. Two blocks keep the adders of few rows busy.
template <class Math, Format format, int kRows, size_t... kBlock>
[[gnu::noinline]] void strip(std::index_sequence<kBlock...>, const uint8_t* const* blocks, int groups, const uint32_t* x,
                  size_t width, Vector (*sums)[kStrip]) {
    constexpr int kBlocks = sizeof...(kBlock);
    const size_t ahead = kBlocks * group_bytes(format) * size_t(groups);
    Vector sum[kBlocks][kRows];
    for (int b = 0; b < kBlocks; b++)
        for (int r = 0; r < kRows; r++) sum[b][r] = zero();
    for (int g = 0; g < groups; g++) {
        const uint32_t* words = x + size_t(g) * Math::kSteps;
        for (int b = 0; b < kBlocks; b++) fetch(blocks[b] + ahead + group_bytes(format) * size_t(g), group_bytes(format));
#pragma GCC unroll 4
        for (int step = 0; step < Math::kSteps; step++) {
#pragma GCC unroll 2
            for (int b = 0; b < kBlocks; b++) {
                const auto weights = Math::template load<format>(blocks[b] + group_bytes(format) * size_t(g), step);
#pragma GCC unroll 12
                for (int r = 0; r < kRows; r++)
                    sum[b][r] = Math::multiply_add(sum[b][r], weights, words + size_t(r) * width + step);
            }
        }
    }
    for (int b = 0; b < kBlocks; b++)
        for (int r = 0; r < kRows; r++) sums[b][r] = sum[b][r];
}

// The same for integers: exact within a group, whose sum is then scaled and added in float32.
template <Format format, int kRows, size_t... kBlock>
[[gnu::noinline]] void integer_strip(std::index_sequence<kBlock...>, const uint8_t* const* blocks, const Activations& x, int first,
                          Vector (*sums)[kStrip]) {
    constexpr int kBlocks = sizeof...(kBlock);
    constexpr int kSteps = kGroup / 2;
    const size_t width = size_t(x.groups) * kSteps;
    const int32_t* pairs = (const int32_t*)x.integers + size_t(first) * width;
    const float* scales = x.scales + size_t(first) * x.groups;
    const float* totals = x.sums + size_t(first) * x.groups;
    const size_t ahead = kBlocks * group_bytes(format) * size_t(x.groups);
    Vector sum[kBlocks][kRows];
    for (int b = 0; b < kBlocks; b++)
        for (int r = 0; r < kRows; r++) sum[b][r] = zero();
    for (int g = 0; g < x.groups; g++) {
        Integers whole[kBlocks][kRows];
        for (int b = 0; b < kBlocks; b++)
            for (int r = 0; r < kRows; r++) whole[b][r] = no_integers();
        const int32_t* words = pairs + size_t(g) * kSteps;
        for (int b = 0; b < kBlocks; b++) fetch(blocks[b] + ahead + group_bytes(format) * size_t(g), group_bytes(format));
        for (int four = 0; four < kSteps; four += 4)
#pragma GCC unroll 4
            for (int place = 0; place < 4; place++)
#pragma GCC unroll 2
                for (int b = 0; b < kBlocks; b++) {
                    const uint8_t* group = blocks[b] + group_bytes(format) * size_t(g);
                    const Integers weights = format == Format::kBytes ? load_bytes(group + 32 * (four + place))
                                                                      : nibbles(load_shorts(group + 16 * four), place);
#pragma GCC unroll 12
                    for (int r = 0; r < kRows; r++)
                        whole[b][r] = multiply_add(whole[b][r], weights, words[size_t(r) * width + four + place]);
                }
        for (int b = 0; b < kBlocks; b++) {
            const uint16_t* tail = (const uint16_t*)(blocks[b] + group_bytes(format) * size_t(g) + integer_bytes(format));
            const Vector scale = load_half(tail);
            for (int r = 0; r < kRows; r++)
                sum[b][r] = multiply_add(to_floats(whole[b][r]), scale * all(scales[size_t(r) * x.groups + g]), sum[b][r]);
            if (format == Format::kNibbles) {
                const Vector least = load_half(tail + kLanes);
                for (int r = 0; r < kRows; r++)
                    sum[b][r] = multiply_add(least, all(totals[size_t(r) * x.groups + g]), sum[b][r]);
            }
        }
    }
    for (int b = 0; b < kBlocks; b++)
        for (int r = 0; r < kRows; r++) sums[b][r] = sum[b][r];
}

template <class Math, Format format, int kRows, class Numbers>
inline void one_strip(Numbers numbers, const uint8_t* const* blocks, const Activations& x, int first,
                      Vector (*sums)[kStrip]) {
    if constexpr (format == Format::kNibbles || format == Format::kBytes) {
        integer_strip<format, kRows>(numbers, blocks, x, first, sums);
    } else {
        const size_t width = size_t(x.groups) * Math::kSteps;
        strip<Math, format, kRows>(numbers, blocks, x.groups, (const uint32_t*)x.elements + size_t(first) * width, width, sums);
    }
}

template <class Math, Format format, class Numbers>
inline void strip_of(int rows, Numbers numbers, const uint8_t* const* blocks, const Activations& x, int first,
                     Vector (*sums)[kStrip]) {
    switch (rows) {
#define GOODSPEED_CASE(n) \
    case n: return one_strip<Math, format, (n <= kStrip ? n : 1)>(numbers, blocks, x, first, sums);
        GOODSPEED_CASE(1)
        GOODSPEED_CASE(2)
        GOODSPEED_CASE(3)
        GOODSPEED_CASE(4)
        GOODSPEED_CASE(5)
        GOODSPEED_CASE(6)
        GOODSPEED_CASE(7)
        GOODSPEED_CASE(8)
        GOODSPEED_CASE(9)
        GOODSPEED_CASE(10)
        GOODSPEED_CASE(11)
        GOODSPEED_CASE(12)
#undef GOODSPEED_CASE
    }
}

template <class Math, Format format, class Use>
inline void product_in(const uint8_t* const* blocks, int count, const Activations& x, int rows, Use use) {
    Vector sums[2][kStrip];
    if (count == 2 && rows <= kTogether) {
        strip_of<Math, format>(rows, std::make_index_sequence<2>(), blocks, x, 0, sums);
        for (int b = 0; b < 2; b++)
            for (int r = 0; r < rows; r++) use(b, r, sums[b][r]);
        return;
    }
    const int strips = (rows + kStrip - 1) / kStrip;
    for (int b = 0; b < count; b++)
        for (int s = 0, first = 0; s < strips; s++) {
            const int some = (rows - first + strips - s - 1) / (strips - s);
            strip_of<Math, format>(some, std::make_index_sequence<1>(), blocks + b, x, first, sums);
            for (int r = 0; r < some; r++) use(b, first + r, sums[0][r]);
            first += some;
        }
}

// One or two blocks, stored alike, times all rows; use(block, row, sum) for each.
template <class Math, class Use>
inline void product(Format format, const uint8_t* const* blocks, int count, const Activations& x, int rows, Use use) {
    switch (format) {
        case Format::kBfloat: return product_in<Math, Format::kBfloat>(blocks, count, x, rows, use);
        case Format::kNibbles: return product_in<Math, Format::kNibbles>(blocks, count, x, rows, use);
        case Format::kBytes: return product_in<Math, Format::kBytes>(blocks, count, x, rows, use);
        case Format::kFloat:
            if constexpr (!Math::kPairs) return product_in<Math, Format::kFloat>(blocks, count, x, rows, use);
    }
}

}  // namespace goodspeed
