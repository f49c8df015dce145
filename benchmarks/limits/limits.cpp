// What this machine can do at best: multiply-adds, bytes read from each level of the memory, gathered loads from L1.
//
//     limits THREADS MILLISECONDS L1 L2 L3 DRAM
//
// The last four are how many bytes each thread reads from a level.  Prints one JSON object; rates are those of all
// threads together.  Each rate is the best of many short tries: a ceiling is what the machine does when nothing
// disturbs it, and a short try finds a quiet moment even on a busy machine.
//
// Vectors are the compiler's own, so that one source serves every architecture; compile with -O3, the instruction sets
// of the machine, and without automatic vectorisation, which would turn the scalar loops below into something else.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;
#ifdef __AVX__
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
typedef float Floats __attribute__((vector_size(vector_bytes)));
typedef std::uint64_t Words __attribute__((vector_size(vector_bytes)));

constexpr int least_tries = 5;
constexpr int most_tries = 100;
constexpr int table_size = 4096;  // floats that are gathered from: half of a small L1
constexpr int index_count = 4096;

std::atomic<std::uint64_t> sink{0};  // what is computed must not look unused

void keep(std::uint64_t value) {
    sink.fetch_xor(value, std::memory_order_relaxed);
}

template <class Vector>
std::uint64_t bits(Vector vector) {
    Words words;
    std::memcpy(&words, &vector, sizeof words);
    std::uint64_t all = 0;
    for (std::size_t i = 0; i < vector_bytes / 8; ++i) all ^= words[i];
    return all;
}

// One thread's piece of work: `run(n)` does it n times, `units` says how much a time is.
struct Work {
    std::function<void(std::int64_t)> run;
    double units;
};

// Each thread on a processor of its own: on a busy machine a new thread would else queue behind the one that waits for
// it.
void pin(std::size_t thread) {
#ifdef __linux__
    static const std::vector<int> allowed = [] {
        cpu_set_t set;
        std::vector<int> found;
        if (sched_getaffinity(0, sizeof set, &set) == 0) {
            for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
                if (CPU_ISSET(cpu, &set)) found.push_back(cpu);
            }
        }
        return found;
    }();
    if (allowed.empty()) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(allowed[thread % allowed.size()], &one);
    sched_setaffinity(0, sizeof one, &one);
#else
    (void)thread;
#endif
}

double seconds_since(Clock::time_point begun) {
    return std::chrono::duration<double>(Clock::now() - begun).count();
}

// Units a second of all threads together, each with its own piece.
double rate(std::vector<Work>& pieces, double seconds) {
    std::int64_t times = 1;
    for (;;) {  // how often a piece is done in the time given
        const auto begun = Clock::now();
        pieces[0].run(times);
        const double taken = seconds_since(begun);
        if (taken > seconds / 4) {
            times = std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(times) * seconds / taken));
            break;
        }
        times *= 2;
    }
    double best = 0;
    const auto first = Clock::now();
    for (int i = 0; i < most_tries && (i < least_tries || seconds_since(first) < most_tries * seconds); ++i) {
        std::atomic<int> waiting{static_cast<int>(pieces.size())};
        std::vector<Clock::time_point> begun(pieces.size()), ended(pieces.size());
        const auto body = [&](std::size_t thread) {
            pin(thread);
            // Together: a thread that runs alone for a while has the shared cache to itself.
            waiting.fetch_sub(1);
            while (waiting.load() > 0) {
            }
            begun[thread] = Clock::now();
            pieces[thread].run(times);
            ended[thread] = Clock::now();
        };
        std::vector<std::thread> threads;
        for (std::size_t t = 1; t < pieces.size(); ++t) threads.emplace_back(body, t);
        body(0);
        for (auto& thread : threads) thread.join();
        double units = 0;
        for (std::size_t t = 0; t < pieces.size(); ++t) {
            units += pieces[t].units * static_cast<double>(times) /
                     std::chrono::duration<double>(ended[t] - begun[t]).count();
        }
        best = std::max(best, units);
    }
    return best;
}

Work multiply_adds() {
    constexpr int steps = 1000;
    const auto run = [](std::int64_t times) {
        // Twelve chains: two units of latency four are busy with eight, and sixteen registers hold twelve.  Each begins
        // elsewhere, or the compiler would see that they are equal and keep one.
        const Floats f = Floats{} + 0.5F;
        const Floats s = Floats{} + 1.0F;
        const Floats b = Floats{} + static_cast<float>(times);
        Floats a0 = b + 0, a1 = b + 1, a2 = b + 2, a3 = b + 3, a4 = b + 4, a5 = b + 5, a6 = b + 6, a7 = b + 7;
        Floats a8 = b + 8, a9 = b + 9, a10 = b + 10, a11 = b + 11;
        for (std::int64_t i = 0; i < times * steps; ++i) {
            a0 = a0 * f + s, a1 = a1 * f + s, a2 = a2 * f + s, a3 = a3 * f + s;
            a4 = a4 * f + s, a5 = a5 * f + s, a6 = a6 * f + s, a7 = a7 * f + s;
            a8 = a8 * f + s, a9 = a9 * f + s, a10 = a10 * f + s, a11 = a11 * f + s;
        }
        keep(bits(a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11));
    };
    return {run, 12.0 * steps * vector_bytes / sizeof(float)};
}

std::shared_ptr<char[]> buffer(std::size_t bytes) {
    auto* data = static_cast<char*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
    if (data == nullptr) {
        std::fputs("limits: not enough memory\n", stderr);
        std::exit(1);
    }
    std::memset(data, 1, bytes);
    return {data, [](char* p) { std::free(p); }};
}

Work reading(std::size_t bytes) {
    constexpr std::size_t block_bytes = 8 * vector_bytes;
    const std::size_t blocks = std::max<std::size_t>(1, bytes / block_bytes);
    const auto memory = buffer(blocks * block_bytes);
    const auto run = [memory, blocks](std::int64_t times) {
        Words sums[8] = {};
        for (std::int64_t i = 0; i < times; ++i) {
            const auto* data = reinterpret_cast<const Words*>(memory.get());
            for (std::size_t block = 0; block < blocks; ++block, data += 8) {
                for (int k = 0; k < 8; ++k) sums[k] ^= data[k];
            }
            asm volatile("" ::: "memory");  // the same bytes again are read again
        }
        for (const Words& sum : sums) keep(bits(sum));
    };
    return {run, static_cast<double>(blocks * block_bytes)};
}

struct Gathered {
    float table[table_size];
    std::uint16_t narrow[index_count];
    std::int32_t wide[index_count];
};

std::shared_ptr<Gathered> gathered() {
    auto data = std::make_shared<Gathered>();
    std::uint32_t state = 1;
    for (int i = 0; i < index_count; ++i) {
        state = state * 1664525 + 1013904223;
        data->narrow[i] = static_cast<std::uint16_t>((state >> 16) % table_size);
        data->wide[i] = data->narrow[i];
    }
    for (float& value : data->table) value = 1;
    return data;
}

// One index and one load for each: what a plain loop over compressed rows does.
Work gathers_one_by_one() {
    const auto data = gathered();
    const auto run = [data](std::int64_t times) {
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
        const float* x = data->table;
        for (std::int64_t i = 0; i < times; ++i) {
            const std::uint16_t* p = data->narrow;
            for (int j = 0; j < index_count; j += 8, p += 8) {
                s0 += x[p[0]], s1 += x[p[1]], s2 += x[p[2]], s3 += x[p[3]];
                s4 += x[p[4]], s5 += x[p[5]], s6 += x[p[6]], s7 += x[p[7]];
            }
            asm volatile("" ::: "memory");
        }
        keep(static_cast<std::uint64_t>(s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7));
    };
    return {run, index_count};
}

// Four indices in one load, taken apart by shifts: fewer loads, more arithmetic.
Work gathers_four_indices() {
    const auto data = gathered();
    const auto run = [data](std::int64_t times) {
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
        const float* x = data->table;
        for (std::int64_t i = 0; i < times; ++i) {
            const std::uint16_t* p = data->narrow;
            for (int j = 0; j < index_count; j += 8, p += 8) {
                std::uint64_t a, b;
                std::memcpy(&a, p, 8);
                std::memcpy(&b, p + 4, 8);
                s0 += x[a & 0xffff], s1 += x[(a >> 16) & 0xffff], s2 += x[(a >> 32) & 0xffff], s3 += x[a >> 48];
                s4 += x[b & 0xffff], s5 += x[(b >> 16) & 0xffff], s6 += x[(b >> 32) & 0xffff], s7 += x[b >> 48];
            }
            asm volatile("" ::: "memory");
        }
        keep(static_cast<std::uint64_t>(s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7));
    };
    return {run, index_count};
}

#ifdef __AVX2__
Work gathers_by_instruction() {
    const auto data = gathered();
    const auto run = [data](std::int64_t times) {
        __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
        const float* x = data->table;
        for (std::int64_t i = 0; i < times; ++i) {
            const auto* p = reinterpret_cast<const __m256i_u*>(data->wide);
            for (int j = 0; j < index_count; j += 32, p += 4) {
                s0 = _mm256_add_ps(s0, _mm256_i32gather_ps(x, _mm256_loadu_si256(p), 4));
                s1 = _mm256_add_ps(s1, _mm256_i32gather_ps(x, _mm256_loadu_si256(p + 1), 4));
                s2 = _mm256_add_ps(s2, _mm256_i32gather_ps(x, _mm256_loadu_si256(p + 2), 4));
                s3 = _mm256_add_ps(s3, _mm256_i32gather_ps(x, _mm256_loadu_si256(p + 3), 4));
            }
            asm volatile("" ::: "memory");
        }
        keep(bits(s0 + s1 + s2 + s3));
    };
    return {run, index_count};
}
#endif

}  // namespace

int main(int argc, char** argv) {
    if (argc != 7) {
        std::fputs("usage: limits THREADS MILLISECONDS L1 L2 L3 DRAM\n", stderr);
        return 2;
    }
    const int threads = std::clamp(std::atoi(argv[1]), 1, 1024);
    const double seconds = std::max(1, std::atoi(argv[2])) / 1000.0;
    const auto measured = [&](const std::function<Work()>& make) {
        std::vector<Work> pieces;
        for (int t = 0; t < threads; ++t) pieces.push_back(make());
        return rate(pieces, seconds);
    };
    std::printf("{\"threads\": %d, \"multiply_adds\": %.6g, \"read\": {", threads, measured(multiply_adds));
    const char* levels[] = {"L1", "L2", "L3", "DRAM"};
    for (int i = 0; i < 4; ++i) {
        const auto bytes = static_cast<std::size_t>(std::max(1LL, std::atoll(argv[3 + i])));
        std::printf("%s\"%s\": %.6g", i ? ", " : "", levels[i], measured([bytes] { return reading(bytes); }));
    }
    std::printf("}, \"gathers\": {\"one by one\": %.6g, \"four indices a load\": %.6g", measured(gathers_one_by_one),
                measured(gathers_four_indices));
#ifdef __AVX2__
    std::printf(", \"gather instruction\": %.6g", measured(gathers_by_instruction));
#endif
    std::printf("}}\n");
    return 0;
}
