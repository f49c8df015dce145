// What the processor that runs this can do.
#pragma once

namespace isogrid {

// A flag is true when both the processor and the operating system (which must save the registers) support it.
struct CpuFeatures {
    const char* architecture;  // "x86_64", "aarch64" or "other"
    char model[49];            // the maker's name for the processor, empty where it cannot be asked for
    bool avx;
    bool avx2;
    bool fma;
    bool f16c;
    bool avx512f;
    bool avx512bw;
    bool avx512dq;
    bool avx512vl;
    bool avx512vnni;
    bool neon;
};

CpuFeatures cpu_features() noexcept;

}  // namespace isogrid
