#include "isogrid/cpu.hpp"

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstdint>
#include <cstring>
#endif

namespace isogrid {

#if defined(__x86_64__)
namespace {

struct Registers {
    std::uint32_t eax = 0;
    std::uint32_t ebx = 0;
    std::uint32_t ecx = 0;
    std::uint32_t edx = 0;
};

// All zero when the processor does not know the leaf.
Registers cpuid(std::uint32_t leaf) noexcept {
    Registers r;
    __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);
    return r;
}

constexpr bool bit(std::uint32_t word, int index) noexcept {
    return (word >> index & 1) != 0;
}

// XCR0: the register files that the operating system saves. The intrinsic would need the whole file compiled for xsave.
std::uint32_t saved_state() noexcept {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

}  // namespace

// Bit numbers: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, instruction CPUID.
CpuFeatures cpu_features() noexcept {
    CpuFeatures features{};
    features.architecture = "x86_64";

    for (std::uint32_t part = 0; part < 3; ++part) {
        const Registers name = cpuid(0x80000002 + part);
        std::memcpy(features.model + 16 * part, &name, sizeof name);
    }

    const Registers basic = cpuid(1);
    const bool knows_xgetbv = bit(basic.ecx, 27);
    const std::uint32_t saved = knows_xgetbv ? saved_state() : 0;
    constexpr std::uint32_t vector_256 = 0x06;  // xmm and the upper halves of ymm
    constexpr std::uint32_t vector_512 = 0xe6;  // those, the mask registers, the upper halves of zmm and zmm16 to zmm31
    if ((saved & vector_256) != vector_256) return features;

    const Registers extended = cpuid(7);
    features.avx = bit(basic.ecx, 28);
    features.avx2 = bit(extended.ebx, 5);
    features.fma = bit(basic.ecx, 12);
    features.f16c = bit(basic.ecx, 29);
    if ((saved & vector_512) != vector_512) return features;

    features.avx512f = bit(extended.ebx, 16);
    features.avx512dq = bit(extended.ebx, 17);
    features.avx512bw = bit(extended.ebx, 30);
    features.avx512vl = bit(extended.ebx, 31);
    features.avx512vnni = bit(extended.ecx, 11);
    return features;
}

#elif defined(__aarch64__)

CpuFeatures cpu_features() noexcept {
    CpuFeatures features{};
    features.architecture = "aarch64";
    features.neon = true;  // part of the base instruction set
    return features;
}

#else

CpuFeatures cpu_features() noexcept {
    CpuFeatures features{};
    features.architecture = "other";
    return features;
}

#endif

}  // namespace isogrid
