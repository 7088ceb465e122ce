// Threads that share one pass: work is claimed piece by piece, and a late thread holds nobody up.
//
// A phase is over when its pieces are done, not when every thread has looked at it: where another process
// has the core of a helper, the others do its pieces, so no thread needs a core of its own. Helpers spin for a moment between phases and sleep
// between passes, so that co-located processes get the cores.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace goodspeed {

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
public:
    explicit Pool(int threads) {
        for (int i = 1; i < threads; i++) helpers_.emplace_back([this, i] { help(i); });
    }

    ~Pool() {
        stop_.store(true);
        wake();
        for (auto& helper : helpers_) helper.join();
    }

    int threads() const { return int(helpers_.size()) + 1; }

    // Helpers come back to their cores; call it before the phases of a pass.
    void begin() {
        awake_.store(true, std::memory_order_release);
        if (!helpers_.empty()) wake();
    }

    void end() { awake_.store(false, std::memory_order_release); }

    // work(piece, thread) for pieces [0, count), each once, by whichever threads come.
    template <class Work>
    void run(int count, Work work) {
        if (count == 1 || helpers_.empty()) {
            for (int piece = 0; piece < count; piece++) work(piece, 0);
            return;
        }
        call_ = [](const void* context, int piece, int thread) { (*static_cast<const Work*>(context))(piece, thread); };
        context_ = &work;
        done_.store(0, std::memory_order_relaxed);
        phase_ = (phase_ + 1) & 0xffffff;
        ticket_.store(uint64_t(phase_) << 40 | uint64_t(count) << 20, std::memory_order_release);
        while (take(0)) {
        }
        for (int spins = 0; done_.load(std::memory_order_acquire) != count; spins++) {
            relax();
            if (spins > 2000) std::this_thread::yield();
        }
    }

private:
    // The number of the phase, its count and the next piece are one word: a ticket is valid by itself.
    bool take(int thread) {
        const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
        const int piece = int(ticket & 0xfffff), count = int(ticket >> 20 & 0xfffff);
        if (piece >= count) return false;
        call_(context_, piece, thread);
        done_.fetch_add(1, std::memory_order_acq_rel);
        return true;
    }

    void help(int thread) {
        while (!stop_.load(std::memory_order_acquire)) {
            while (take(thread)) {
            }
            const uint64_t seen = ticket_.load(std::memory_order_acquire) >> 20;
            for (int spins = 0; ticket_.load(std::memory_order_acquire) >> 20 == seen; spins++) {
                if (stop_.load(std::memory_order_acquire)) return;
                relax();
                if (spins < 500) continue;
                spins = 0;
                if (!awake_.load(std::memory_order_acquire)) sleep();
            }
        }
    }

    void sleep() {
#if defined(__linux__)
        const uint32_t calls = calls_.load();
        if (awake_.load() || stop_.load()) return;
        syscall(SYS_futex, &calls_, FUTEX_WAIT_PRIVATE, calls, nullptr, nullptr, 0);
#else
        std::this_thread::yield();
#endif
    }

    void wake() {
        calls_.fetch_add(1);
#if defined(__linux__)
        syscall(SYS_futex, &calls_, FUTEX_WAKE_PRIVATE, 1 << 20, nullptr, nullptr, 0);
#endif
    }

    std::vector<std::thread> helpers_;
    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<int> done_{0};
    alignas(64) std::atomic<bool> awake_{false};
    std::atomic<bool> stop_{false};
    std::atomic<uint32_t> calls_{0};
    uint32_t phase_ = 0;
    void (*call_)(const void*, int, int) = nullptr;
    const void* context_ = nullptr;
};

}  // namespace goodspeed
