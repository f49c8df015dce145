// Rows of nonzeros times a tile of activations.
//
// A nonzero costs one broadcast and one multiply-add per vector of the tile, whose activations come straight from the
// L1 cache: with eight vectors a core that loads two vectors a cycle reaches 8 / 9 of its multiply-add rate. A row's
// sums stay in registers from its first nonzero to its last.

// Four values, repeated, and one of them in all lanes: a load for four nonzeros instead of four, where loads are what
// is short.
template <class V>
inline V load_four(const float* p) {
    const Four four = four_at(p);
    if constexpr (sizeof(V) == sizeof(Four)) {
        return four;
    } else if constexpr (sizeof(V) == 2 * sizeof(Four)) {
#if ISOGRID_WIDTH == 8 && !defined(__clang__)
        // The portable way would become a load and a shuffle, which takes a port that multiply-adds need.
        return __builtin_ia32_vbroadcastf128_ps256(reinterpret_cast<const Four*>(p));
#else
        return __builtin_shufflevector(four, four, 0, 1, 2, 3, 0, 1, 2, 3);
#endif
    } else {
#if ISOGRID_WIDE_WIDTH == 16 && !defined(__clang__)
        // The portable way would go through the stack.
        return __builtin_ia32_broadcastf32x4_512(four, V{}, -1);
#else
        return __builtin_shufflevector(four, four, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
#endif
    }
}
template <int I, class V>
inline V spread(V four) {
    if constexpr (sizeof(V) == sizeof(Four)) {
        return __builtin_shufflevector(four, four, I, I, I, I);
    } else if constexpr (sizeof(V) == 2 * sizeof(Four)) {
        return __builtin_shufflevector(four, four, I, I, I, I, I + 4, I + 4, I + 4, I + 4);
    } else {
        return __builtin_shufflevector(four, four, I, I, I, I, I + 4, I + 4, I + 4, I + 4, I + 8, I + 8, I + 8, I + 8,
                                       I + 12, I + 12, I + 12, I + 12);
    }
}

// One row. Narrow tiles take several nonzeros in turn into sums of their own, since a single chain of multiply-adds
// would wait for itself: eight sums are what two multiply-adds a cycle of four cycles each keep busy. More than twelve
// would not stay in registers. The parameter is the number of vectors.
template <int V, class Offset>
__attribute__((always_inline)) inline Strip<V> multiply_row(const Offset* offsets, const float* values, int count,
                                                            const float* x) {
    constexpr int registers = Strip<V>::longs + Strip<V>::odd;
    constexpr int chains = registers <= 3 ? 4 : registers <= 6 ? 2 : 1;
    Strip<V> sum[chains] = {};
    int k = 0;
    for (; k + 4 <= count; k += 4) {
        const Wide four = load_four<Wide>(values + k);
        const Wide value[4] = {spread<0>(four), spread<1>(four), spread<2>(four), spread<3>(four)};
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) sum[c % chains].add(value[c], x + offsets[k + c]);
    }
    for (; k < count; ++k) sum[0].add(all<Wide>(values[k]), x + offsets[k]);
#pragma GCC unroll 4
    for (int c = 1; c < chains; ++c) sum[0].add(sum[c]);
    return sum[0];
}

// What is so many bytes behind the nonzeros of a row: with narrow tiles these are read faster than the processor
// fetches them of its own accord, which ends with each page. Behind the last row there is nothing to be had, and
// nothing happens.
__attribute__((always_inline)) inline void fetch_ahead(const float* values, const std::uint16_t* offsets, int count) {
    const auto fetch = [](const void* p, std::uintptr_t ahead) {
        __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(p) + ahead));
    };
    for (int k = 0; k < count; k += 16) fetch(values + k, 2048);
    for (int k = 0; k < count; k += 32) fetch(offsets + k, 1024);
}

// All rows of a block. `ends.end(row, totals)` adds what is there already and stores. A row begins with zeros, not with
// the sums it is added to: its first multiply-adds would wait for these, which come from the L2 cache.
template <int V, class Ends>
__attribute__((always_inline)) inline void multiply_rows(const RowBlock& block, const float* x, const Ends& ends) {
    const std::uint8_t* rows = block.rows;
    const std::uint16_t* offsets = block.offsets;
    const float* values = block.values;
    for (int r = 0; r < block.run_count; ++r) {
        const int count = block.runs[r].count;
        for (int i = 0; i < block.runs[r].rows; ++i) {
            const std::size_t row = *rows++;
            fetch_ahead(values, offsets, count);
            Strip<V> total = multiply_row<V>(offsets, values, count, x);
            ends.end(row, total);
            offsets += count;
            values += count;
        }
    }
}

template <int V, bool First>
struct IntoSums {
    float* sums;

    void end(std::size_t row, Strip<V>& total) const {
        float* const to = sums + row * (V * width);
        total.each([=]<class P>(P& sum, int at) { store(to + at, First ? sum : load<P>(to + at) + sum); });
    }
};

template <int V, bool First, bool Clip>
struct IntoResult {
    const float* sums;
    const Finish& finish;

    void end(std::size_t row, Strip<V>& total) const {
        const float* const from = sums + row * (V * width);
        const Wide bias = all<Wide>(finish.bias == nullptr ? 0.0f : finish.bias[row]);
        const float* const residual = finish.residual == nullptr ? nullptr : finish.residual + row * finish.stride;
        float* const y = finish.y + row * finish.stride;
        const float low = finish.low;
        const float high = finish.high;
        total.each([=]<class P>(P& sum, int at) {
            P result = (First ? sum : load<P>(from + at) + sum) + first_lanes<P>(bias);
            if (residual != nullptr) result += load<P>(residual + at);
            if constexpr (Clip) result = at_most(at_least(result, low), high);
            store(y + at, result);
        });
    }
};

// Calls body.template operator()<vectors>(), for the widths that this target has.
template <class Body>
inline void with_vectors(int vectors, const Body& body) {
    switch (vectors) {
        case 1:
            return body.template operator()<1>();
        case 2:
            return body.template operator()<2>();
        case 3:
            return body.template operator()<3>();
        case 4:
            return body.template operator()<4>();
        case 5:
            return body.template operator()<5>();
        case 6:
            return body.template operator()<6>();
        case 7:
            return body.template operator()<7>();
        case 8:
            return body.template operator()<8>();
#if ISOGRID_VECTORS > 8
        case 9:
            return body.template operator()<9>();
        case 10:
            return body.template operator()<10>();
#endif
#if ISOGRID_VECTORS > 10
        case 11:
            return body.template operator()<11>();
        case 12:
            return body.template operator()<12>();
#endif
#if ISOGRID_VECTORS > 12
        case 13:
            return body.template operator()<13>();
        case 14:
            return body.template operator()<14>();
        case 15:
            return body.template operator()<15>();
        case 16:
            return body.template operator()<16>();
#endif
        default:
            return;
    }
}

void multiply(const RowBlock& block, const float* x, float* sums, int vectors, bool first) {
    if (block.quads) {
        const auto pitch = static_cast<std::size_t>(vectors) * width;
        if (first) return multiply_quads(block, x, vectors, QuadSums<true>{sums, pitch});
        return multiply_quads(block, x, vectors, QuadSums<false>{sums, pitch});
    }
    with_vectors(vectors, [&]<int V>() {
        if (first) {
            multiply_rows<V>(block, x, IntoSums<V, true>{sums});
        } else {
            multiply_rows<V>(block, x, IntoSums<V, false>{sums});
        }
    });
}

void multiply_last(const RowBlock& block, const float* x, const float* sums, int vectors, bool first,
                   const Finish& finish) {
    if (block.quads) {
        const auto pitch = static_cast<std::size_t>(vectors) * width;
        if (first) {
            if (finish.clip) return multiply_quads(block, x, vectors, QuadResult<true, true>{sums, pitch, finish});
            return multiply_quads(block, x, vectors, QuadResult<true, false>{sums, pitch, finish});
        }
        if (finish.clip) return multiply_quads(block, x, vectors, QuadResult<false, true>{sums, pitch, finish});
        return multiply_quads(block, x, vectors, QuadResult<false, false>{sums, pitch, finish});
    }
    with_vectors(vectors, [&]<int V>() {
        if (first) {
            if (finish.clip) return multiply_rows<V>(block, x, IntoResult<V, true, true>{sums, finish});
            return multiply_rows<V>(block, x, IntoResult<V, true, false>{sums, finish});
        }
        if (finish.clip) return multiply_rows<V>(block, x, IntoResult<V, false, true>{sums, finish});
        multiply_rows<V>(block, x, IntoResult<V, false, false>{sums, finish});
    });
}

template <int V>
inline void slide_tile(const float* window, const std::int32_t* offsets, const float* weights, int taps, Wide start,
                       float* sums) {
    Strip<V> total = multiply_row<V>(offsets, weights, taps, window);
    total.each([=]<class P>(P& sum, int at) { store(sums + at, first_lanes<P>(start) + sum); });
}

void slide(const float* window, const std::int32_t* offsets, const float* weights, int taps, float start, float* sums,
           int length) {
    const Wide first = all<Wide>(start);
    int p = 0;
    for (; p + 8 * width <= length; p += 8 * width) slide_tile<8>(window + p, offsets, weights, taps, first, sums + p);
    if (p == length) return;
    with_vectors((length - p) / width, [=]<int V>() {
        if constexpr (V < 8) slide_tile<V>(window + p, offsets, weights, taps, first, sums + p);
    });
}

template <int V>
inline void slide_max_tile(const float* window, const std::int32_t* offsets, int taps, float* sums) {
    Vec best[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) best[v] = load(window + offsets[0] + v * width);
    for (int t = 1; t < taps; ++t) {
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
            const Vec x = load(window + offsets[t] + v * width);
            // Not `x > best`: NaN must get in, and stay.
            best[v] = choose((x <= best[v]) | (best[v] != best[v]), best[v], x);
        }
    }
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) store(sums + v * width, best[v]);
}

void slide_max(const float* window, const std::int32_t* offsets, int taps, float* sums, int length) {
    int p = 0;
    for (; p + 4 * width <= length; p += 4 * width) slide_max_tile<4>(window + p, offsets, taps, sums + p);
    for (; p < length; p += width) slide_max_tile<1>(window + p, offsets, taps, sums + p);
}
