// A square of vectors, mirrored at its diagonal.
inline void transpose(Four (&m)[4]) {
    const Four a = __builtin_shufflevector(m[0], m[1], 0, 4, 1, 5);
    const Four b = __builtin_shufflevector(m[0], m[1], 2, 6, 3, 7);
    const Four c = __builtin_shufflevector(m[2], m[3], 0, 4, 1, 5);
    const Four d = __builtin_shufflevector(m[2], m[3], 2, 6, 3, 7);
    m[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    m[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    m[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    m[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

#if ISOGRID_WIDTH == 8
inline void transpose(Vec (&m)[8]) {
    Vec a[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        a[2 * i] = __builtin_shufflevector(m[2 * i], m[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        a[2 * i + 1] = __builtin_shufflevector(m[2 * i], m[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    Vec b[8];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
        b[4 * i] = __builtin_shufflevector(a[4 * i], a[4 * i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        b[4 * i + 1] = __builtin_shufflevector(a[4 * i], a[4 * i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        b[4 * i + 2] = __builtin_shufflevector(a[4 * i + 1], a[4 * i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        b[4 * i + 3] = __builtin_shufflevector(a[4 * i + 1], a[4 * i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        m[i] = __builtin_shufflevector(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        m[i + 4] = __builtin_shufflevector(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

// The first four columns of eight rows, as four vectors.
inline void transpose_half(const float* from, std::size_t pitch, Vec (&m)[4]) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 4; ++i) {
        m[i] =
            __builtin_shufflevector(four_at(from + i * pitch), four_at(from + (i + 4) * pitch), 0, 1, 2, 3, 4, 5, 6, 7);
    }
    const Vec a = __builtin_shufflevector(m[0], m[1], 0, 8, 1, 9, 4, 12, 5, 13);
    const Vec b = __builtin_shufflevector(m[0], m[1], 2, 10, 3, 11, 6, 14, 7, 15);
    const Vec c = __builtin_shufflevector(m[2], m[3], 0, 8, 1, 9, 4, 12, 5, 13);
    const Vec d = __builtin_shufflevector(m[2], m[3], 2, 10, 3, 11, 6, 14, 7, 15);
    m[0] = __builtin_shufflevector(a, c, 0, 1, 8, 9, 4, 5, 12, 13);
    m[1] = __builtin_shufflevector(a, c, 2, 3, 10, 11, 6, 7, 14, 15);
    m[2] = __builtin_shufflevector(b, d, 0, 1, 8, 9, 4, 5, 12, 13);
    m[3] = __builtin_shufflevector(b, d, 2, 3, 10, 11, 6, 7, 14, 15);
}
#else
inline void transpose_half(const float* from, std::size_t pitch, Vec (&m)[4]) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 4; ++i) m[i] = load(from + i * pitch);
    transpose(m);
}
#endif
