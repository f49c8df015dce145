#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "isogrid/cpu.hpp"

TEST_CASE("cpu: the features agree with the compiler's own view of this processor") {
    const isogrid::CpuFeatures cpu = isogrid::cpu_features();
#if defined(__x86_64__)
    CHECK(std::string(cpu.architecture) == "x86_64");
    CHECK(std::strlen(cpu.model) > 0);
    CHECK(cpu.avx == (__builtin_cpu_supports("avx") != 0));
    CHECK(cpu.avx2 == (__builtin_cpu_supports("avx2") != 0));
    CHECK(cpu.fma == (__builtin_cpu_supports("fma") != 0));
    CHECK(cpu.avx512f == (__builtin_cpu_supports("avx512f") != 0));
    CHECK(cpu.avx512bw == (__builtin_cpu_supports("avx512bw") != 0));
    CHECK(cpu.avx512dq == (__builtin_cpu_supports("avx512dq") != 0));
    CHECK(cpu.avx512vl == (__builtin_cpu_supports("avx512vl") != 0));
    CHECK(cpu.avx512vnni == (__builtin_cpu_supports("avx512vnni") != 0));
    CHECK_FALSE(cpu.neon);
#elif defined(__aarch64__)
    CHECK(std::string(cpu.architecture) == "aarch64");
    CHECK(cpu.neon);
    CHECK_FALSE(cpu.avx2);
#else
    CHECK(std::string(cpu.architecture) == "other");
    CHECK_FALSE(cpu.avx2);
    CHECK_FALSE(cpu.neon);
#endif
}
