// out[token][n] = sum over k of inputs[token][k] * weights[n][k], for few tokens.
//
// The weights stream through shared memory once; with few tokens nothing else matters. A block takes ROWS rows
// and one of SPLIT parts of their depth. A cluster holds the SPLIT blocks of SHARING neighbouring tiles:
// neighbours need the same inputs, so each fetches a part of them for all; the parts of one tile are added up
// through distributed shared memory, each block adding a slice of the rows. Which numbers are added in which
// order depends on the shape of the weights alone, so a token's result does not depend on who shares the pass.
//
// A dependent launch starts while its predecessor still runs: the first weights are on their way before
// the inputs exist.
//
// Compiled with TOKENS (multiple of 16, at most 256), ROWS (multiple of 16 and of 8 * SPLIT), SPLIT, SHARING,
// STAGES, AHEAD, GATED, and multiply.h, which holds the instruction for that many tokens
// and the conversions of the element type.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
struct __align__(64) TensorMap { u64 opaque[16]; };

#include "multiply.h"

// A group of warps multiplies 64 rows; those of the last may lie behind ROWS and are not written.
constexpr int STEP = 64, GROUPS = (ROWS + 63) / 64, CONSUMERS = GROUPS * 128;
constexpr u32 WEIGHT_BYTES = ROWS * STEP * 2, INPUT_BYTES = TOKENS * STEP * 2, STAGE_BYTES = WEIGHT_BYTES + INPUT_BYTES;
constexpr u32 PART_BYTES = INPUT_BYTES / SHARING;
// Every consumer warp of every block that shares the inputs says when a stage may be overwritten.
constexpr u32 RELEASES = SHARING * GROUPS * 4;
constexpr u16 NEIGHBOURS = (1 << SHARING) - 1;
constexpr int SLICE = ROWS / SPLIT;
// Four more than a slice: lanes that hold different tokens then write to different banks.
constexpr int PITCH = SLICE + 4;
constexpr u64 EVICT_FIRST = 0x12F0000000000000ull, EVICT_LAST = 0x14F0000000000000ull;

__device__ __forceinline__ void initialise(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}

__device__ __forceinline__ void expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void await(u32 barrier, u32 phase) {
    u32 done;
    do {
        asm volatile(
            "{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(barrier), "r"(phase)
            : "memory");
    } while (!done);
}

__device__ __forceinline__ u32 in_block(u32 address, u32 rank) {
    u32 there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
}

// Not a release at cluster scope: that waits for all of the warp's memory operations, and the matrix unit has
// read what it read.
__device__ __forceinline__ void release(u32 barrier, u32 rank) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(in_block(barrier, rank)) : "memory");
}

__device__ __forceinline__ void load_weights(u32 into, const TensorMap* map, int k, int row, u32 barrier) {
#if GATED
    // Eight rows of the gate, the same eight of what it gates, the next eight: dimensions k, 8, 2, groups.
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%2, %3, %3, %4}], [%5], %6;" ::"r"(into),
        "l"(map), "r"(k), "r"(0), "r"(row / 16), "r"(barrier), "l"(EVICT_FIRST)
        : "memory");
#else
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(into),
        "l"(map), "r"(k), "r"(row), "r"(barrier), "l"(EVICT_FIRST)
        : "memory");
#endif
}

__device__ __forceinline__ void load_inputs(u32 into, const TensorMap* map, int k, int token, u32 barrier, u16 blocks) {
#if SHARING > 1
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
        ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(into),
        "l"(map), "r"(k), "r"(token), "r"(barrier), "h"(blocks), "l"(EVICT_LAST)
        : "memory");
#else
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(into),
        "l"(map), "r"(k), "r"(token), "r"(barrier), "l"(EVICT_LAST)
        : "memory");
#endif
}

// A matrix in shared memory, STEP values of k a row, 128-byte swizzle.
__device__ __forceinline__ u64 described(u32 address) {
    return (u64)((address & 0x3FFFF) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

extern "C" __global__ void __cluster_dims__(SPLIT* SHARING, 1, 1) __launch_bounds__(CONSUMERS + 64, 1)
    product(const __grid_constant__ TensorMap weights, const __grid_constant__ TensorMap inputs,
            u16* __restrict__ out, int tokens, int width, int steps) {
    extern __shared__ unsigned char shared[];
    const u32 stages = ((u32)__cvta_generic_to_shared(shared) + 1023) & ~1023u;
    const u32 exchange = stages + STAGES * STAGE_BYTES;
    const u32 full = exchange + (SPLIT > 1 ? SPLIT * TOKENS * PITCH * 4 : 0);
    const u32 fed = full + 8 * STAGES, empty = fed + 8 * STAGES;
    const int rank = blockIdx.x % (SPLIT * SHARING), part = rank / SHARING, member = rank % SHARING;
    const int row = (blockIdx.x / (SPLIT * SHARING) * SHARING + member) * ROWS;
    const int begin = part * steps / SPLIT, end = (part + 1) * steps / SPLIT;
    // Broadcast, so that the compiler knows that a warp takes one path.
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;

    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    if (threadIdx.x == CONSUMERS) {
        for (int stage = 0; stage < STAGES; ++stage) {
            initialise(full + 8 * stage, 1);
            initialise(fed + 8 * stage, 1);
            initialise(empty + 8 * stage, RELEASES);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");

    if (warp == GROUPS * 4) {
        if (lane == 0) {
            int stage = 0;
            u32 phase = 1;
            for (int step = begin; step < end; ++step) {
                const u32 barrier = full + 8 * stage;
                await(empty + 8 * stage, phase);
                // More on their way would hold up the predecessor, which still reads and writes.
                if (step >= begin + AHEAD && step < begin + STAGES) await(barrier - 8 * AHEAD, 0);
                expect(barrier, WEIGHT_BYTES);
                load_weights(stages + stage * STAGE_BYTES, &weights, step * STEP, row, barrier);
                if (++stage == STAGES) stage = 0, phase ^= 1;
            }
        }
    } else if (warp == GROUPS * 4 + 1) {
        if (lane == 0) {
            int stage = 0;
            u32 phase = 1;
            asm volatile("griddepcontrol.wait;" ::: "memory");
            for (int step = begin; step < end; ++step) {
                const u32 barrier = fed + 8 * stage;
                await(empty + 8 * stage, phase);
                expect(barrier, INPUT_BYTES);
                load_inputs(stages + stage * STAGE_BYTES + WEIGHT_BYTES + member * PART_BYTES, &inputs, step * STEP,
                            member * (TOKENS / SHARING), barrier, NEIGHBOURS << (part * SHARING));
                if (++stage == STAGES) stage = 0, phase ^= 1;
            }
        }
    } else {
        const int group = warp / 4;
        float sums[TOKENS / 2];
        int stage = 0, last = -1;
        u32 phase = 0;
        bool keep = false;
        for (int step = begin; step < end; ++step) {
            const u32 place = stages + stage * STAGE_BYTES;
            await(full + 8 * stage, phase);
            await(fed + 8 * stage, phase);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
            const u64 rows = described(place + group * 64 * STEP * 2), columns = described(place + WEIGHT_BYTES);
#pragma unroll
            for (int k = 0; k < STEP / 16; ++k) multiply(sums, rows + 2 * k, columns + 2 * k, keep || k > 0);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            keep = true;
            if (last >= 0 && lane < SHARING) release(empty + 8 * last, part * SHARING + lane);
            last = stage;
            if (++stage == STAGES) stage = 0, phase ^= 1;
        }
        finish(sums);
        const int local = group * 64 + warp % 4 * 16 + lane / 4;
#pragma unroll
        for (int i = 0; i < TOKENS / 2; ++i) {
            const int token = i / 4 * 8 + lane % 4 * 2 + i % 2, below = i % 4 / 2 * 8;
#if SPLIT > 1
            const int n = local + below;
            if (n < ROWS) {
                const u32 at = exchange + ((part * TOKENS + token) * PITCH + n % SLICE) * 4;
                asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(in_block(at, n / SLICE * SHARING + member)),
                             "f"(sums[i])
                             : "memory");
            }
#elif GATED
            // Rounded where the plain model rounds, so that both see the same activations.
            if (below == 0 && token < tokens && local < ROWS && row + local < width) {
                const float gate = rounded(narrow(sums[i])), up = rounded(narrow(sums[i + 2]));
                const float turned = rounded(narrow(gate / (1.0f + __expf(-gate))));
                out[(size_t)token * (width / 2) + (row + local) / 16 * 8 + lane / 4] = narrow(turned * up);
            }
#else
            const int n = row + local + below;
            if (token < tokens && local + below < ROWS && n < width) out[(size_t)token * width + n] = narrow(sums[i]);
#endif
        }
    }
    // The other blocks may still read from and write into this one's shared memory.
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#if SPLIT > 1
    for (int i = threadIdx.x; i < TOKENS * SLICE / 2; i += CONSUMERS + 64) {
        const int token = i / (SLICE / 2), local = i % (SLICE / 2) * 2, n = row + part * SLICE + local;
        if (token >= tokens || n >= width) continue;
        float low = 0, high = 0;
#pragma unroll
        for (int source = 0; source < SPLIT; ++source) {
            float a, b;
            asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                         : "=f"(a), "=f"(b)
                         : "r"(exchange + ((source * TOKENS + token) * PITCH + local) * 4));
            low += a, high += b;
        }
        *(u32*)(out + (size_t)token * width + n) = (u32)narrow(low) | (u32)narrow(high) << 16;
    }
#endif
}
