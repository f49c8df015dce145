// Four rows whose nonzeros stand in the same columns, times a tile of activations.
//
// What is loaded of the tile serves four rows at once, so that multiply-adds and not loads are what limits: with three
// registers a column costs three loads of activations, four of weights and twelve multiply-adds. Wider tiles are taken
// three registers at a time.

template <bool First>
struct QuadSums {
    float* sums;
    std::size_t pitch;

    template <int V>
    void start(std::size_t row, std::size_t column, Strip<V>& total) const {
        const float* const from = sums + row * pitch + column;
        total.each([=]<class P>(P& sum, int at) { sum = First ? P{} : load<P>(from + at); });
    }
    template <int V>
    void end(std::size_t row, std::size_t column, Strip<V>& total) const {
        float* const to = sums + row * pitch + column;
        total.each([=]<class P>(P& sum, int at) { store(to + at, sum); });
    }
};

template <bool First, bool Clip>
struct QuadResult {
    const float* sums;
    std::size_t pitch;
    const Finish& finish;

    // The bias is where a sum begins.
    template <int V>
    void start(std::size_t row, std::size_t column, Strip<V>& total) const {
        const float* const from = sums + row * pitch + column;
        const Wide bias = all<Wide>(finish.bias == nullptr ? 0.0f : finish.bias[row]);
        total.each([=]<class P>(P& sum, int at) {
            sum = First ? first_lanes<P>(bias) : first_lanes<P>(bias) + load<P>(from + at);
        });
    }
    template <int V>
    void end(std::size_t row, std::size_t column, Strip<V>& total) const {
        const std::size_t at_row = row * finish.stride + column;
        const float* const residual = finish.residual == nullptr ? nullptr : finish.residual + at_row;
        float* const y = finish.y + at_row;
        const float low = finish.low;
        const float high = finish.high;
        total.each([=]<class P>(P& sum, int at) {
            P result = sum;
            if (residual != nullptr) result += load<P>(residual + at);
            if constexpr (Clip) result = at_most(at_least(result, low), high);
            store(y + at, result);
        });
    }
};

// Vectors [shift, shift + V) of the tile.
template <int V, class Ends>
__attribute__((always_inline)) inline void multiply_quad(const std::uint16_t* offsets, const float* values, int count,
                                                         const float* x, std::size_t row, int shift, const Ends& ends) {
    const auto from = static_cast<std::size_t>(shift) * width;
    Strip<V> sum[4];
#pragma GCC unroll 4
    for (std::size_t r = 0; r < 4; ++r) ends.start(row + r, from, sum[r]);
    const float* const tile = x + from;
    for (int k = 0; k < count; ++k) {
        Strip<V> activation;
        activation.each([=]<class P>(P& part, int at) { part = load<P>(tile + offsets[k] + at); });
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) sum[r].add(all<Wide>(values[4 * k + r]), activation);
    }
#pragma GCC unroll 4
    for (std::size_t r = 0; r < 4; ++r) ends.end(row + r, from, sum[r]);
}

template <class Ends>
inline void multiply_quads(const RowBlock& block, const float* x, int vectors, const Ends& ends) {
    constexpr int one = wide_width / width;  // register, in vectors
    const std::uint8_t* rows = block.rows;
    const std::uint16_t* offsets = block.offsets;
    const float* values = block.values;
    for (int r = 0; r < block.run_count; ++r) {
        const int count = block.runs[r].count;
        for (int i = 0; i < block.runs[r].rows; ++i) {
            const std::size_t row = 4 * static_cast<std::size_t>(*rows++);
            int shift = 0;
            // Two and two rather than three and one.
            for (; vectors - shift > 4 * one || vectors - shift == 3 * one; shift += 3 * one)
                multiply_quad<3 * one>(offsets, values, count, x, row, shift, ends);
            for (; vectors - shift >= 2 * one; shift += 2 * one)
                multiply_quad<2 * one>(offsets, values, count, x, row, shift, ends);
            for (; vectors - shift >= one; shift += one)
                multiply_quad<one>(offsets, values, count, x, row, shift, ends);
            if constexpr (one > 1) {
                if (vectors != shift) multiply_quad<1>(offsets, values, count, x, row, shift, ends);
            }
            offsets += count;
            values += 4 * count;
        }
    }
}
