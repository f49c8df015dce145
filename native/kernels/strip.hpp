// A row of a tile in registers: V vectors, two at a time where the target has registers of that length.
//
// On their own the odd ones cost what they are worth: tiles need not be as wide as the longest registers would have it.

template <class V>
inline V first_lanes(Wide value) {
    if constexpr (sizeof(V) == sizeof(Wide)) {
        return value;
    } else {
        return __builtin_shufflevector(value, value, 0, 1, 2, 3, 4, 5, 6, 7);
    }
}

template <int V>
struct Strip {
    static constexpr int longs = V * width / wide_width;
    static constexpr bool odd = V * width % wide_width != 0;
    Wide part[longs > 0 ? longs : 1];
    Vec last;

    // body(part, offset): a register, and where in the row it belongs.
    template <class Body>
    __attribute__((always_inline)) void each(const Body& body) {
#pragma GCC unroll 16
        for (int v = 0; v < longs; ++v) body(part[v], v * wide_width);
        if constexpr (odd) body(last, longs * wide_width);
    }
    __attribute__((always_inline)) void add(const Strip& other) {
#pragma GCC unroll 16
        for (int v = 0; v < longs; ++v) part[v] += other.part[v];
        if constexpr (odd) last += other.last;
    }
    __attribute__((always_inline)) void add(Wide value, const Strip& x) {
#pragma GCC unroll 16
        for (int v = 0; v < longs; ++v) part[v] += value * x.part[v];
        if constexpr (odd) last += first_lanes<Vec>(value) * x.last;
    }
    __attribute__((always_inline)) void add(Wide value, const float* x) {
        each([=]<class P>(P& sum, int at)
                 __attribute__((always_inline)) { sum += first_lanes<P>(value) * load<P>(x + at); });
    }
};
