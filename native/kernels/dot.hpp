// One sample: eight rows at a time, their nonzeros interleaved. Fetching the activations one by one into a vector beats
// the gather instruction on the processors this was measured on. Where four rows share their columns two activations
// serve all eight.

inline Vec fetch(const float* x, const std::uint16_t* at) {
    const Indices index(at);
#if ISOGRID_WIDTH == 8
    return Vec{x[index[0]], x[index[1]], x[index[2]], x[index[3]], x[index[4]], x[index[5]], x[index[6]], x[index[7]]};
#else
    return Vec{x[index[0]], x[index[1]], x[index[2]], x[index[3]]};
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
inline void dot(const SliceList& list, const float* x, float* out, bool first) {
    constexpr int vectors = 8 / width;
    constexpr int step = Quads ? 2 : 8;  // columns of eight values
    const auto product = [=](const typename Values::Element* value, const std::uint16_t* at) {
        return Values::read(value) * (Quads ? fetch_quads(x, at) : fetch(x, at));
    };
    for (int s = 0; s < list.count; ++s) {
        const Slice slice = list.slices[s];
        const std::uint16_t* at = list.columns + step * slice.begin;
        const auto* value = static_cast<const typename Values::Element*>(list.values) + 8 * slice.begin;
        Vec even[vectors] = {};
        Vec odd[vectors] = {};
        int i = 0;
        for (; i + 2 <= slice.steps; i += 2) {
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) {
                even[v] += product(value + v * width, at + v * (step / vectors));
                odd[v] += product(value + 8 + v * width, at + step + v * (step / vectors));
            }
            at += 2 * step;
            value += 16;
        }
        for (int v = 0; v < vectors; ++v) {
            if (i < slice.steps) even[v] += product(value + v * width, at + v * (step / vectors));
            float* to = out + 8 * s + v * width;
            const Vec sum = even[v] + odd[v];
            store(to, first ? sum : load(to) + sum);
        }
    }
}

template <class Values>
inline void dot_of(const SliceList& list, const float* x, float* out, bool first) {
    if (list.quads) return dot<Values, true>(list, x, out, first);
    dot<Values, false>(list, x, out, first);
}

void dot_f32(const SliceList& list, const float* x, float* out, bool first) {
    dot_of<F32Values>(list, x, out, first);
}

void dot_f16(const SliceList& list, const float* x, float* out, bool first) {
    dot_of<F16Values>(list, x, out, first);
}

void dot_int8(const SliceList& list, const float* x, float* out, bool first) {
    dot_of<Int8Values>(list, x, out, first);
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
