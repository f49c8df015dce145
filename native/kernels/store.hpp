// Sums on their way out: bias, residual, activation; as they lie, or transposed.

// One row of results, `size` of them, from sums that nothing else touches. The last vector overlaps the one before it
// rather than being cut, where the row is long enough.
template <class F>
inline void finish_row(const float* sums, float bias, const float* residual, F f, float* y, int size) {
    const auto finish = [=](int i) {
        Vec v = load(sums + i) + all(bias);
        if (residual != nullptr) v += load(residual + i);
        store(y + i, f(v));
    };
    int i = 0;
    for (; i + width <= size; i += width) finish(i);
    if (i == size) return;
    if (size >= width) return finish(size - width);
    Vec v = load_part(sums, size) + all(bias);
    if (residual != nullptr) v += load_part(residual, size);
    store_part(y, f(v), size);
}

void store_rows(const Sums& sums, const float* bias, const Epilogue& epilogue, const float* residual, float* y,
                std::size_t stride) {
    with_activation(epilogue, [=, &sums](auto f) {
        for (int r = 0; r < sums.rows; ++r) {
            const std::size_t at = static_cast<std::size_t>(r) * stride;
            finish_row(sums.data + static_cast<std::size_t>(r) * static_cast<std::size_t>(sums.pitch),
                       bias == nullptr ? 0.0f : bias[r], residual == nullptr ? nullptr : residual + at, f, y + at,
                       sums.columns);
        }
    });
}

// Tokens outside, rows inside: each token's results are written as one stream, however far apart the tokens lie.
void store_tokens(const Sums& sums, const float* bias, const Epilogue& epilogue, const float* residual, float* y,
                  std::size_t stride) {
    with_activation(epilogue, [=, &sums](auto f) {
        const std::size_t pitch = static_cast<std::size_t>(sums.pitch);
        for (int t = 0; t < sums.columns; t += width) {
            const int tokens = sums.columns - t < width ? sums.columns - t : width;
            float* const to = y + static_cast<std::size_t>(t) * stride;
            const float* const add = residual == nullptr ? nullptr : residual + static_cast<std::size_t>(t) * stride;
            for (int r = 0; r < sums.rows; r += width) {
                const int rows = sums.rows - r < width ? sums.rows - r : width;
                const float* from = sums.data + static_cast<std::size_t>(r) * pitch + t;
                Vec square[width];
                if (rows == width) {
#pragma GCC unroll 8
                    for (int i = 0; i < width; ++i) square[i] = load(from + static_cast<std::size_t>(i) * pitch);
                } else {
                    for (int i = 0; i < width; ++i) {
                        square[i] = i < rows ? load(from + static_cast<std::size_t>(i) * pitch) : Vec{};
                    }
                }
                transpose(square);
                const Vec shift = bias == nullptr ? Vec{} : rows == width ? load(bias + r) : load_part(bias + r, rows);
                for (int i = 0; i < tokens; ++i) {
                    const std::size_t at = static_cast<std::size_t>(i) * stride + static_cast<std::size_t>(r);
                    Vec v = square[i] + shift;
                    if (add != nullptr) v += rows == width ? load(add + at) : load_part(add + at, rows);
                    if (rows == width) {
                        store(to + at, f(v));
                    } else {
                        store_part(to + at, f(v), rows);
                    }
                }
            }
        }
    });
}
