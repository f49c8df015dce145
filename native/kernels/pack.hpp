// Activations on their way in: into tiles that fill the L1 cache without holes.

// As many tokens as a vector has lanes at a time, so that the tile is filled a vector at a time.
void pack_tokens(const float* x, std::size_t stride, int tokens, int features, float* out, int pitch, int padded) {
    for (int t = 0; t < padded; t += width) {
        const int here = tokens - t < 0 ? 0 : tokens - t < width ? tokens - t : width;
        const float* const from = x + static_cast<std::size_t>(t) * stride;
        float* to = out + t;
        int k = 0;
        if (here == width) {
            for (; k + width <= features; k += width) {
                Vec square[width];
#pragma GCC unroll 8
                for (int i = 0; i < width; ++i) square[i] = load(from + static_cast<std::size_t>(i) * stride + k);
                transpose(square);
#pragma GCC unroll 8
                for (int i = 0; i < width; ++i) store(to + i * pitch, square[i]);
                to += width * pitch;
            }
        }
        for (; k < features; ++k) {
            float column[width] = {};
            for (int i = 0; i < here; ++i)
                column[i] = from[static_cast<std::size_t>(i) * stride + static_cast<std::size_t>(k)];
            store(to, load(column));
            to += pitch;
        }
    }
}

// The low half of a vector of eight lanes, or a whole one of four: for rows shorter than a vector.
typedef float LooseHalf __attribute__((vector_size(16), aligned(4), may_alias));

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
            const LooseHalf first = *reinterpret_cast<const LooseHalf*>(from);
            const LooseHalf last = *reinterpret_cast<const LooseHalf*>(from + count - 4);
            *reinterpret_cast<LooseHalf*>(to) = first;
            *reinterpret_cast<LooseHalf*>(to + count - 4) = last;
            return;
        }
    } else if (step == 2) {
        // One fewer, for the last vector would read past the last element by one.
        for (; i + width < count; i += width) {
            const Vec a = load(from + 2 * i);
            const Vec b = load(from + 2 * i + width);
#if ISOGRID_WIDTH == 8
            store(to + i, __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14));
#else
            store(to + i, __builtin_shufflevector(a, b, 0, 2, 4, 6));
#endif
        }
    }
    for (; i < count; ++i) to[i] = from[i * step];
}

inline void clear(float* to, int count, float fill = 0.0f) {
    int i = 0;
    for (; i + width <= count; i += width) store(to + i, all(fill));
    for (; i < count; ++i) to[i] = fill;
}

void pack_window(const float* plane, int image_width, int stride_y, int stride_x, const Phase& phase, int pitch,
                 int first, int length, float* out) {
    // Row and column of the first position; `first` may be negative.
    int row = first >= 0 ? first / pitch : -((-first + pitch - 1) / pitch);
    int column = first - row * pitch;
    int done = 0;
    while (done < length) {
        const int left = length - done;
        const int here = pitch - column < left ? pitch - column : left;
        int valid = 0;
        if (row >= 0 && row < phase.height && column < phase.width) {
            valid = phase.width - column < here ? phase.width - column : here;
            const std::size_t y = static_cast<std::size_t>(row) * static_cast<std::size_t>(stride_y) +
                                  static_cast<std::size_t>(phase.first_row);
            const float* from =
                plane + y * static_cast<std::size_t>(image_width) + phase.first_column + column * stride_x;
            copy(from, stride_x, valid, out + done);
        }
        clear(out + done + valid, here - valid);
        done += here;
        column = 0;
        ++row;
    }
}

void pack_planes(const float* planes, std::size_t plane, std::size_t channels, const Segment* segments, int count,
                 int step, float fill, float* out, std::size_t window) {
    for (std::size_t c = 0; c < channels; ++c) {
        const float* const from = planes + c * plane;
        float* const to = out + c * window;
        for (int s = 0; s < count; ++s) {
            if (segments[s].from < 0) {
                clear(to + segments[s].to, segments[s].count, fill);
            } else {
                copy(from + segments[s].from, step, segments[s].count, to + segments[s].to);
            }
        }
    }
}
