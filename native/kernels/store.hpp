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
    if (size >= 4) {
        // Two halves that overlap.
        const auto half = [=](int at) {
            Vec v = load_four<Vec>(sums + at) + all(bias);
            if (residual != nullptr) v += load_four<Vec>(residual + at);
            v = f(v);
            put_four(y + at, reinterpret_cast<const Four&>(v));
        };
        half(0);
        return half(size - 4);
    }
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

// A few tokens of a few rows; the general case of what follows.
template <class F>
inline void finish_part(const float* from, std::size_t pitch, int tokens, int rows, Vec bias, const float* residual,
                        F f, float* y, std::size_t stride) {
    for (int i = 0; i < tokens; ++i) {
        const std::size_t at = static_cast<std::size_t>(i) * stride;
        float column[width] = {};
        for (int r = 0; r < rows; ++r)
            column[r] = from[static_cast<std::size_t>(r) * pitch + static_cast<std::size_t>(i)];
        Vec v = load(column) + bias;
        if (residual != nullptr) v += load_part(residual + at, rows);
        store_part(y + at, f(v), rows);
    }
}

// Four tokens of as many rows as a vector has lanes, or the first of them: four columns of the sums are read in any
// case.
template <bool Whole, bool Residual, class F>
inline void finish_four(const float* from, std::size_t pitch, std::size_t tokens, Vec bias, const float* residual, F f,
                        float* y, std::size_t stride) {
    Vec token[4];
    transpose_half(from, pitch, token);
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 4; ++i) {
        if (!Whole && i == tokens) return;
        Vec v = token[i] + bias;
        if constexpr (Residual) v += load(residual + i * stride);
        store(y + i * stride, f(v));
    }
}

// Four tokens at a time, and a few of their cache lines: tokens often lie a multiple of 4096 bytes apart, so that their
// lines share a set of the L1 cache, and more of them at once would throw each other out half written. Few rows at a
// time, so that the sums are read from the L1 cache though four columns of a row are less than a line.
template <class F>
inline void store_some(const Sums& sums, int first, int last, const float* bias, const float* residual, F f, float* y,
                       std::size_t stride) {
    const std::size_t pitch = static_cast<std::size_t>(sums.pitch);
    for (int t = 0; t < sums.columns; t += 4) {
        const int tokens = sums.columns - t < 4 ? sums.columns - t : 4;
        float* const to = y + static_cast<std::size_t>(t) * stride;
        const float* const add = residual == nullptr ? nullptr : residual + static_cast<std::size_t>(t) * stride;
        int r = first;
        // Four columns are there if they count, or if another row follows and the pitch has room for them.
        for (; r + width <= last && (tokens == 4 || (t + 4 <= sums.pitch && r + width < sums.rows)); r += width) {
            const float* const from = sums.data + static_cast<std::size_t>(r) * pitch + t;
            const Vec shift = bias == nullptr ? Vec{} : load(bias + r);
            const auto finish = [&]<bool Whole>() {
                const auto count = static_cast<std::size_t>(tokens);
                if (add == nullptr) return finish_four<Whole, false>(from, pitch, count, shift, add, f, to + r, stride);
                finish_four<Whole, true>(from, pitch, count, shift, add + r, f, to + r, stride);
            };
            tokens == 4 ? finish.template operator()<true>() : finish.template operator()<false>();
        }
        for (; r < last; r += width) {
            const int rows = last - r < width ? last - r : width;
            finish_part(sums.data + static_cast<std::size_t>(r) * pitch + t, pitch, tokens, rows,
                        bias == nullptr ? Vec{} : load_part(bias + r, rows), add == nullptr ? nullptr : add + r, f,
                        to + r, stride);
        }
    }
}

void store_tokens(const Sums& sums, const float* bias, const Epilogue& epilogue, const float* residual, float* y,
                  std::size_t stride) {
    constexpr int some = 32;
    with_activation(epilogue, [=, &sums](auto f) {
        for (int r = 0; r < sums.rows; r += some) {
            store_some(sums, r, sums.rows - r < some ? sums.rows : r + some, bias, residual, f, y, stride);
        }
    });
}
