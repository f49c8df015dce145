// Activations on their way in: into tiles that fill the L1 cache without holes.

// Features of up to as many tokens as a vector has lanes, of which there are `tokens`: a square at a time, with zeros
// for the tokens that there are not. Returns how many features that were.
template <bool Whole>
inline int pack_squares(const float* from, std::size_t stride, int tokens, int features, float* to, int pitch) {
    int k = 0;
    for (; k + width <= features; k += width) {
        Vec square[width];
#pragma GCC unroll 8
        for (int i = 0; i < width; ++i)
            square[i] = Whole || i < tokens ? load(from + static_cast<std::size_t>(i) * stride + k) : Vec{};
        transpose(square);
#pragma GCC unroll 8
        for (int i = 0; i < width; ++i) store(to + i * pitch, square[i]);
        to += width * pitch;
    }
    return k;
}

void pack_tokens(const float* x, std::size_t stride, int tokens, int features, float* out, int pitch, int padded) {
    for (int t = 0; t < padded; t += width) {
        const int here = tokens - t < 0 ? 0 : tokens - t < width ? tokens - t : width;
        const float* const from = x + static_cast<std::size_t>(t) * stride;
        int k = here == width ? pack_squares<true>(from, stride, here, features, out + t, pitch)
                : here > 0    ? pack_squares<false>(from, stride, here, features, out + t, pitch)
                              : 0;
        for (float* to = out + t + k * pitch; k < features; ++k, to += pitch) {
            float column[width] = {};
            for (int i = 0; i < here; ++i)
                column[i] = from[static_cast<std::size_t>(i) * stride + static_cast<std::size_t>(k)];
            store(to, load(column));
        }
    }
}

// Every second of eight or sixteen floats. `Last` reads one fewer: what follows the last of them need not exist.
template <bool Last>
inline Vec evens(const float* p) {
    const Vec a = load(p);
    const Vec b = load(p + width - (Last ? 1 : 0));
#if ISOGRID_WIDTH == 8
    if constexpr (Last) return __builtin_shufflevector(a, b, 0, 2, 4, 6, 9, 11, 13, 15);
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
#else
    if constexpr (Last) return __builtin_shufflevector(a, b, 0, 2, 5, 7);
    return __builtin_shufflevector(a, b, 0, 2, 4, 6);
#endif
}

// Of a row's last four.
inline Four last_evens(const float* p) {
    return __builtin_shufflevector(four_at(p), four_at(p + 3), 0, 2, 5, 7);
}

// Few elements, and the last of many, are copied twice rather than one by one.
inline void copy(const float* from, int step, int count, float* to) {
    int i = 0;
    if (step == 1) {
        if (count >= width) {
            for (; i + width <= count; i += width) store(to + i, load(from + i));
            store(to + count - width, load(from + count - width));
            return;
        }
        if (count >= 4) {
            const Four first = four_at(from);
            const Four last = four_at(from + count - 4);
            put_four(to, first);
            put_four(to + count - 4, last);
            return;
        }
    } else if (step == 2) {
        if (count >= width) {
            for (; i + width < count; i += width) store(to + i, evens<false>(from + 2 * i));
            store(to + count - width, evens<true>(from + 2 * (count - width)));
            return;
        }
        if (count >= 4) {
            const Four first = last_evens(from);
            const Four last = last_evens(from + 2 * (count - 4));
            put_four(to, first);
            put_four(to + count - 4, last);
            return;
        }
    }
    for (; i < count; ++i) to[i] = from[i * step];
}

inline void clear(float* to, int count, float fill = 0.0f) {
    int i = 0;
    for (; i + width <= count; i += width) store(to + i, all(fill));
    for (; i < count; ++i) to[i] = fill;
}

// Some planes at a time, so that what a segment asks for is decided once for all of them.
void pack_planes(const float* planes, std::size_t plane, std::size_t channels, const Segment* segments, int count,
                 int step, float fill, float* out, std::size_t window) {
    constexpr std::size_t some = 8;
    for (std::size_t first = 0; first < channels; first += some) {
        const std::size_t last = channels - first < some ? channels : first + some;
        for (int s = 0; s < count; ++s) {
            const Segment& here = segments[s];
            const Segment& next = segments[s + 1 < count ? s + 1 : s];
            if (here.from >= 0) {
                for (std::size_t c = first; c < last; ++c)
                    copy(planes + c * plane + here.from, step, here.count, out + c * window + here.to);
            } else if (here.count < width && next.to == here.to + here.count &&
                       here.to + width <= next.to + next.count) {
                // What a whole vector covers too much, the next segment covers again.
                for (std::size_t c = first; c < last; ++c) store(out + c * window + here.to, all(fill));
            } else {
                for (std::size_t c = first; c < last; ++c) clear(out + c * window + here.to, here.count, fill);
            }
        }
    }
}
