// Rows of nonzeros times a tile of activations.
//
// A nonzero costs one broadcast and one multiply-add per vector of the tile, whose activations come straight from the
// L1 cache: with eight vectors a core that loads two vectors a cycle reaches 8 / 9 of its multiply-add rate. A row's
// sums stay in registers from its first nonzero to its last.

// One row. Narrow tiles take several nonzeros in turn into sums of their own, since a single chain of multiply-adds
// would wait for itself. The first parameter is the number of vectors, the second that of chains.
template <int V, int Chains, class Offset>
inline void multiply_row(const Offset* offsets, const float* values, int count, const float* x, Vec (&total)[V]) {
    Vec sum[Chains][V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
        sum[0][v] = total[v];
#pragma GCC unroll 8
        for (int c = 1; c < Chains; ++c) sum[c][v] = Vec{};
    }
    constexpr int step = Chains > 2 ? Chains : 2;
    int k = 0;
    for (; k + step <= count; k += step) {
#pragma GCC unroll 8
        for (int c = 0; c < step; ++c) {
            const Vec value = all(values[k + c]);
            const float* from = x + offsets[k + c];
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) sum[c % Chains][v] += value * load(from + v * width);
        }
    }
    for (; k < count; ++k) {
        const Vec value = all(values[k]);
        const float* from = x + offsets[k];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) sum[0][v] += value * load(from + v * width);
    }
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
        total[v] = sum[0][v];
#pragma GCC unroll 8
        for (int c = 1; c < Chains; ++c) total[v] += sum[c][v];
    }
}

template <int V, bool First>
void multiply_tile(const RowBlock& block, const float* x, float* sums) {
    constexpr int chains = V == 1 ? 8 : V == 2 ? 4 : V <= 4 ? 2 : 1;
    const std::uint8_t* rows = block.rows;
    const std::uint16_t* offsets = block.offsets;
    const float* values = block.values;
    for (int r = 0; r < block.run_count; ++r) {
        const int count = block.runs[r].count;
        for (int i = 0; i < block.runs[r].rows; ++i) {
            float* to = sums + *rows++ * (V * width);
            Vec total[V];
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) total[v] = First ? Vec{} : load(to + v * width);
            multiply_row<V, chains>(offsets, values, count, x, total);
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) store(to + v * width, total[v]);
            offsets += count;
            values += count;
        }
    }
}

template <bool First>
void multiply_any(const RowBlock& block, const float* x, float* sums, int vectors) {
    switch (vectors) {
        case 1:
            return multiply_tile<1, First>(block, x, sums);
        case 2:
            return multiply_tile<2, First>(block, x, sums);
        case 3:
            return multiply_tile<3, First>(block, x, sums);
        case 4:
            return multiply_tile<4, First>(block, x, sums);
        case 5:
            return multiply_tile<5, First>(block, x, sums);
        case 6:
            return multiply_tile<6, First>(block, x, sums);
        case 7:
            return multiply_tile<7, First>(block, x, sums);
        case 8:
            return multiply_tile<8, First>(block, x, sums);
#if ISOGRID_VECTORS > 8
        case 9:
            return multiply_tile<9, First>(block, x, sums);
        case 10:
            return multiply_tile<10, First>(block, x, sums);
#endif
#if ISOGRID_VECTORS > 10
        case 11:
            return multiply_tile<11, First>(block, x, sums);
        case 12:
            return multiply_tile<12, First>(block, x, sums);
        case 13:
            return multiply_tile<13, First>(block, x, sums);
        case 14:
            return multiply_tile<14, First>(block, x, sums);
        case 15:
            return multiply_tile<15, First>(block, x, sums);
        case 16:
            return multiply_tile<16, First>(block, x, sums);
#endif
        default:
            return;
    }
}

void multiply(const RowBlock& block, const float* x, float* sums, int vectors, bool first) {
    if (first) {
        multiply_any<true>(block, x, sums, vectors);
    } else {
        multiply_any<false>(block, x, sums, vectors);
    }
}

void slide(const float* window, const std::int32_t* offsets, const float* weights, int taps, float start, float* sums,
           int length) {
    int p = 0;
    for (; p + 8 * width <= length; p += 8 * width) {
        Vec total[8];
#pragma GCC unroll 8
        for (int v = 0; v < 8; ++v) total[v] = all(start);
        multiply_row<8, 1>(offsets, weights, taps, window + p, total);
#pragma GCC unroll 8
        for (int v = 0; v < 8; ++v) store(sums + p + v * width, total[v]);
    }
    for (; p + width <= length; p += width) {
        Vec total[1] = {all(start)};
        multiply_row<1, 4>(offsets, weights, taps, window + p, total);
        store(sums + p, total[0]);
    }
    for (; p < length; ++p) {
        float total = start;
        for (int t = 0; t < taps; ++t) total += weights[t] * window[offsets[t] + p];
        sums[p] = total;
    }
}
