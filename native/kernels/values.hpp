// Weights as they are stored, a vector of them read as f32, and the indices beside them.

#if ISOGRID_WIDTH == 8
typedef std::int8_t Eight8 __attribute__((vector_size(8), aligned(1), may_alias));
typedef short Eight16 __attribute__((vector_size(16)));
typedef short LooseEight16 __attribute__((vector_size(16), aligned(2), may_alias));
inline Vec halves(const std::uint16_t* p) {
    return __builtin_ia32_vcvtph2ps256(*reinterpret_cast<const LooseEight16*>(p));
}
inline Vec bytes(const std::int8_t* p) {
#if defined(__clang__)
    return __builtin_convertvector(*reinterpret_cast<const Eight8*>(p), Vec);
#else
    // The portable way above becomes a chain of insertions in GCC.
    typedef long long Pair __attribute__((vector_size(16)));
    typedef long long LooseLong __attribute__((aligned(1), may_alias));
    typedef char Sixteen8 __attribute__((vector_size(16)));
    const Pair raw = {*reinterpret_cast<const LooseLong*>(p), 0};
    typedef int Eight32 __attribute__((vector_size(32)));
    const Eight32 codes = __builtin_ia32_pmovsxbd256(reinterpret_cast<Sixteen8>(raw));
    return __builtin_convertvector(codes, Vec);
#endif
}
#else
typedef std::int8_t Four8 __attribute__((vector_size(4), aligned(1), may_alias));
inline Vec halves(const std::uint16_t* p) {
#if defined(__aarch64__)
    typedef __fp16 Four16 __attribute__((vector_size(8), aligned(2), may_alias));
    return __builtin_convertvector(*reinterpret_cast<const Four16*>(p), Vec);
#else
    Vec v;
    for (int i = 0; i < 4; ++i) v[i] = half_to_float(p[i]);
    return v;
#endif
}
inline Vec bytes(const std::int8_t* p) {
    return __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const Four8*>(p), Ints), Vec);
}
#endif

struct F32Values {
    using Element = float;
    static Vec read(const float* p) { return load(p); }
};
struct F16Values {
    using Element = std::uint16_t;
    static Vec read(const std::uint16_t* p) { return halves(p); }
};
struct Int8Values {
    using Element = std::int8_t;
    static Vec read(const std::int8_t* p) { return bytes(p); }
};

// The 16-bit indices of as many lanes, of which four come with one load: loads are what products of slices wait for.
struct Indices {
    typedef std::uint64_t Four16Bits __attribute__((aligned(2), may_alias));
    const Four16Bits* four;

    explicit Indices(const std::uint16_t* at) : four(reinterpret_cast<const Four16Bits*>(at)) {}
    std::size_t operator[](int lane) const { return four[lane / 4] >> (16 * (lane % 4)) & 0xffff; }
};
