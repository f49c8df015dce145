// Four rows whose nonzeros stand in the same columns, times a tile of activations.
//
// What is loaded of the tile serves four rows at once, so that multiply-adds and not loads are what limits: with three
// vectors a column costs three loads of activations, four of weights and twelve multiply-adds. Wider tiles are taken
// three vectors at a time.

template <bool First>
struct QuadSums {
    float* sums;
    std::size_t pitch;

    template <int V>
    void start(std::size_t row, std::size_t column, Vec (&total)[V]) const {
        const float* const from = sums + row * pitch + column;
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) total[v] = First ? Vec{} : load(from + v * width);
    }
    template <int V>
    void end(std::size_t row, std::size_t column, const Vec (&total)[V]) const {
        float* const to = sums + row * pitch + column;
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) store(to + v * width, total[v]);
    }
};

template <bool First, bool Clip>
struct QuadResult {
    const float* sums;
    std::size_t pitch;
    const Finish& finish;

    // The bias is where a sum begins.
    template <int V>
    void start(std::size_t row, std::size_t column, Vec (&total)[V]) const {
        const float* const from = sums + row * pitch + column;
        const Vec bias = all(finish.bias == nullptr ? 0.0f : finish.bias[row]);
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) total[v] = First ? bias : bias + load(from + v * width);
    }
    template <int V>
    void end(std::size_t row, std::size_t column, const Vec (&total)[V]) const {
        const std::size_t at = row * finish.stride + column;
        const float* const residual = finish.residual == nullptr ? nullptr : finish.residual + at;
        float* const y = finish.y + at;
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            Vec result = total[v];
            if (residual != nullptr) result += load(residual + v * width);
            if constexpr (Clip) result = at_most(at_least(result, finish.low), finish.high);
            store(y + v * width, result);
        }
    }
};

// Vectors [shift, shift + V) of the tile.
template <int V, class Ends>
__attribute__((always_inline)) inline void multiply_quad(const std::uint16_t* offsets, const float* values, int count,
                                                         const float* x, std::size_t row, int shift, const Ends& ends) {
    const auto from = static_cast<std::size_t>(shift) * width;
    Vec sum[4][V];
#pragma GCC unroll 4
    for (std::size_t r = 0; r < 4; ++r) ends.start(row + r, from, sum[r]);
    const float* const tile = x + from;
    for (int k = 0; k < count; ++k) {
        Vec activation[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) activation[v] = load(tile + offsets[k] + v * width);
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) {
            const Vec value = all(values[4 * k + r]);
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) sum[r][v] += value * activation[v];
        }
    }
#pragma GCC unroll 4
    for (std::size_t r = 0; r < 4; ++r) ends.end(row + r, from, sum[r]);
}

template <class Ends>
inline void multiply_quads(const RowBlock& block, const float* x, int vectors, const Ends& ends) {
    const std::uint8_t* rows = block.rows;
    const std::uint16_t* offsets = block.offsets;
    const float* values = block.values;
    for (int r = 0; r < block.run_count; ++r) {
        const int count = block.runs[r].count;
        for (int i = 0; i < block.runs[r].rows; ++i) {
            const std::size_t row = 4 * static_cast<std::size_t>(*rows++);
            int shift = 0;
            // Two and two rather than three and one.
            for (; vectors - shift > 4 || vectors - shift == 3; shift += 3)
                multiply_quad<3>(offsets, values, count, x, row, shift, ends);
            for (; vectors - shift >= 2; shift += 2) multiply_quad<2>(offsets, values, count, x, row, shift, ends);
            if (vectors != shift) multiply_quad<1>(offsets, values, count, x, row, shift, ends);
            offsets += count;
            values += 4 * count;
        }
    }
}
