// One sample: eight rows at a time, their nonzeros interleaved. Fetching the activations one by one into a vector beats
// the gather instruction on the processors this was measured on. Where four rows share their columns two activations
// serve all eight.

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

// Four indices are read at once: the loads of the activations are what this waits for.
inline Vec fetch(const float* x, const std::uint16_t* at) {
    typedef std::uint64_t Four16Bits __attribute__((aligned(2), may_alias));
    const auto* four = reinterpret_cast<const Four16Bits*>(at);
    const auto lane = [=](int i) { return x[four[i / 4] >> (16 * (i % 4)) & 0xffff]; };
#if ISOGRID_WIDTH == 8
    return Vec{lane(0), lane(1), lane(2), lane(3), lane(4), lane(5), lane(6), lane(7)};
#else
    return Vec{lane(0), lane(1), lane(2), lane(3)};
#endif
}

// Two of them, for four lanes each; of narrower vectors the one that is theirs.
inline Vec fetch_quads(const float* x, const std::uint16_t* at) {
#if ISOGRID_WIDTH == 8
    const float a = x[at[0]];
    const float b = x[at[1]];
    return Vec{a, a, a, a, b, b, b, b};
#else
    return all(x[at[0]]);
#endif
}

template <class Values, bool Quads>
inline void dot(const Slice* slices, int count, const std::uint16_t* columns, const typename Values::Element* values,
                const float* x, float* out, bool first) {
    constexpr int vectors = 8 / width;
    constexpr int step = Quads ? 2 : 8;  // columns of eight values
    const auto product = [=](const typename Values::Element* value, const std::uint16_t* at) {
        return Values::read(value) * (Quads ? fetch_quads(x, at) : fetch(x, at));
    };
    for (int s = 0; s < count; ++s) {
        const std::uint16_t* at = columns + step * slices[s].begin;
        const auto* value = values + 8 * slices[s].begin;
        Vec even[vectors] = {};
        Vec odd[vectors] = {};
        int i = 0;
        for (; i + 2 <= slices[s].steps; i += 2) {
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) {
                even[v] += product(value + v * width, at + v * (step / vectors));
                odd[v] += product(value + 8 + v * width, at + step + v * (step / vectors));
            }
            at += 2 * step;
            value += 16;
        }
        for (int v = 0; v < vectors; ++v) {
            if (i < slices[s].steps) even[v] += product(value + v * width, at + v * (step / vectors));
            float* to = out + 8 * s + v * width;
            const Vec sum = even[v] + odd[v];
            store(to, first ? sum : load(to) + sum);
        }
    }
}

template <class Values>
inline void dot_of(const Slice* slices, int count, const std::uint16_t* columns, const void* raw, bool quads,
                   const float* x, float* out, bool first) {
    const auto* values = static_cast<const typename Values::Element*>(raw);
    if (quads) return dot<Values, true>(slices, count, columns, values, x, out, first);
    dot<Values, false>(slices, count, columns, values, x, out, first);
}

void dot_f32(const Slice* slices, int count, const std::uint16_t* columns, const void* values, bool quads,
             const float* x, float* out, bool first) {
    dot_of<F32Values>(slices, count, columns, values, quads, x, out, first);
}

void dot_f16(const Slice* slices, int count, const std::uint16_t* columns, const void* values, bool quads,
             const float* x, float* out, bool first) {
    dot_of<F16Values>(slices, count, columns, values, quads, x, out, first);
}

void dot_int8(const Slice* slices, int count, const std::uint16_t* columns, const void* values, bool quads,
              const float* x, float* out, bool first) {
    dot_of<Int8Values>(slices, count, columns, values, quads, x, out, first);
}

// The rows of a column are distinct, so the order of the additions does not matter.
void scatter(const std::uint16_t* rows, const float* values, std::size_t count, float x, float* y) {
    std::size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const float a = y[rows[i]] + x * values[i];
        const float b = y[rows[i + 1]] + x * values[i + 1];
        const float c = y[rows[i + 2]] + x * values[i + 2];
        const float d = y[rows[i + 3]] + x * values[i + 3];
        y[rows[i]] = a;
        y[rows[i + 1]] = b;
        y[rows[i + 2]] = c;
        y[rows[i + 3]] = d;
    }
    for (; i < count; ++i) y[rows[i]] += x * values[i];
}
