// A few samples: the slices of one sample, whose nonzeros are read once for all of them. Activations are packed so that
// those of a column lie side by side, and one load fetches what a nonzero is multiplied with.
//
// The sums of a slice fill eight vectors at most, which leaves registers for the rest. The classes below say which rows
// share a vector, and what of a step's eight values and of its activations belongs to it.

// Two samples: each vector holds those of two rows, so that a pair of nonzeros is one multiply-add.
struct TwoSamples {
    using Sum = Four;
    static constexpr int vectors = 4;

    template <int V>
    static Four values(const float* eight) {
        constexpr int lane = 2 * V % 4;
        const Four four = four_at(eight + 2 * V - lane);
        return __builtin_shufflevector(four, four, lane, lane, lane + 1, lane + 1);
    }
    template <int V, class Index>
    static Four inputs(const float* x, const Index& index) {
        typedef double Two __attribute__((vector_size(16)));
        typedef double LoosePair __attribute__((aligned(4), may_alias));
        const auto* pairs = reinterpret_cast<const LoosePair*>(x);
        return reinterpret_cast<Four>(Two{pairs[index(2 * V)], pairs[index(2 * V + 1)]});
    }
    // `sink(sample, row, four)` for four rows of each sample.
    template <class Sink>
    static void end(Four (&sum)[4], const Sink& sink) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
            sink(0, 4 * h, __builtin_shufflevector(sum[2 * h], sum[2 * h + 1], 0, 2, 4, 6));
            sink(1, 4 * h, __builtin_shufflevector(sum[2 * h], sum[2 * h + 1], 1, 3, 5, 7));
        }
    }
};

#if ISOGRID_WIDTH == 8
struct FourSamples {
    using Sum = Four;
    static constexpr int vectors = 8;

    template <int V>
    static Four values(const float* eight) {
        return eight[V] - Four{};
    }
    template <int V, class Index>
    static Four inputs(const float* x, const Index& index) {
        return four_at(x + 4 * index(V));
    }
    template <class Sink>
    static void end(Four (&sum)[8], const Sink& sink) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
            Four square[4] = {sum[4 * h], sum[4 * h + 1], sum[4 * h + 2], sum[4 * h + 3]};
            transpose(square);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) sink(i, 4 * h, square[i]);
        }
    }
};

struct EightSamples {
    using Sum = Vec;
    static constexpr int vectors = 8;

    template <int V>
    static Vec values(const float* eight) {
        return all(eight[V]);
    }
    template <int V, class Index>
    static Vec inputs(const float* x, const Index& index) {
        return load(x + 8 * index(V));
    }
    template <class Sink>
    static void end(Vec (&sum)[8], const Sink& sink) {
        transpose(sum);
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) sink(i, 0, sum[i]);
    }
};
#endif

// body.template operator()<v>() for v in [0, N).
template <int N, class Body>
__attribute__((always_inline)) inline void each(const Body& body) {
    if constexpr (N > 0) {
        each<N - 1>(body);
        body.template operator()<N - 1>();
    }
}

// Values are broadcast as they are loaded, which only f32 can be: others are widened so many steps at a time.
constexpr int few_steps = 32;

template <class Values>
inline const float* widen_steps(const typename Values::Element* values, int steps, float* to) {
    for (int i = 0; i < 8 * steps; i += width) store(to + i, Values::read(values + i));
    return to;
}

template <>
inline const float* widen_steps<F32Values>(const float* values, int, float*) {
    return values;
}

template <class Samples, class Values, bool Quads>
inline void few(const SliceList& list, const float* x, float* out, std::size_t pitch, bool first) {
    constexpr int step = Quads ? 2 : 8;  // columns of eight values
    float widened[8 * few_steps];
    for (int s = 0; s < list.count; ++s) {
        const Slice slice = list.slices[s];
        const std::uint16_t* at = list.columns + step * slice.begin;
        const auto* stored = static_cast<const typename Values::Element*>(list.values) + 8 * slice.begin;
        typename Samples::Sum sum[Samples::vectors] = {};
        for (int done = 0; done < slice.steps; done += few_steps) {
            const int steps = slice.steps - done < few_steps ? slice.steps - done : few_steps;
            const float* eight = widen_steps<Values>(stored + 8 * done, steps, widened);
            for (int i = 0; i < steps; ++i) {
                const auto index = [=](int lane) -> std::size_t { return Quads ? at[lane / 4] : Indices(at)[lane]; };
                each<Samples::vectors>([&]<int V>() __attribute__((always_inline)) {
                    sum[V] += Samples::template values<V>(eight) * Samples::template inputs<V>(x, index);
                });
                at += step;
                eight += 8;
            }
        }
        Samples::end(sum, [=](int sample, int row, auto rows) {
            float* const to = out + static_cast<std::size_t>(sample) * pitch + 8 * s + row;
            typedef decltype(rows) LooseRows __attribute__((aligned(4), may_alias));
            auto& there = *reinterpret_cast<LooseRows*>(to);
            there = first ? rows : there + rows;
        });
    }
}

template <class Values, bool Quads>
inline void few_samples(const SliceList& list, const float* x, int samples, float* out, std::size_t pitch, bool first) {
#if ISOGRID_WIDTH == 8
    if (samples == 4) return few<FourSamples, Values, Quads>(list, x, out, pitch, first);
    if (samples == 8) return few<EightSamples, Values, Quads>(list, x, out, pitch, first);
#endif
    if (samples == 2) few<TwoSamples, Values, Quads>(list, x, out, pitch, first);
}

template <class Values>
inline void few_of(const SliceList& list, const float* x, int samples, float* out, std::size_t pitch, bool first) {
    if (list.quads) return few_samples<Values, true>(list, x, samples, out, pitch, first);
    few_samples<Values, false>(list, x, samples, out, pitch, first);
}

void few_f32(const SliceList& list, const float* x, int samples, float* out, std::size_t pitch, bool first) {
    few_of<F32Values>(list, x, samples, out, pitch, first);
}

void few_f16(const SliceList& list, const float* x, int samples, float* out, std::size_t pitch, bool first) {
    few_of<F16Values>(list, x, samples, out, pitch, first);
}

void few_int8(const SliceList& list, const float* x, int samples, float* out, std::size_t pitch, bool first) {
    few_of<Int8Values>(list, x, samples, out, pitch, first);
}

// Four samples at a time; of a group that is not whole, those that are there.
void pack_few(const float* x, std::size_t stride, int tokens, int features, int samples, float* out) {
    for (int t = 0; t < samples; t += 4) {
        const int here = tokens - t < 4 ? tokens - t : 4;
        const int kept = samples < 4 ? samples : 4;
        const float* const from = x + static_cast<std::size_t>(t) * stride;
        float* to = out + t;
        int k = 0;
        for (; k + 4 <= features && kept == 4; k += 4) {
            Four square[4] = {};
            for (int i = 0; i < here; ++i) square[i] = four_at(from + static_cast<std::size_t>(i) * stride + k);
            transpose(square);
            for (int i = 0; i < 4; ++i, to += samples) put_four(to, square[i]);
        }
        for (; k < features; ++k, to += samples) {
            for (int i = 0; i < kept; ++i)
                to[i] = i < here ? from[static_cast<std::size_t>(i) * stride + static_cast<std::size_t>(k)] : 0.0f;
        }
    }
}
