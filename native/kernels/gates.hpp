// What follows the products in a recurrent layer. The states may be updated in place.

// Calls body(first, count) for whole vectors of units, and for what is left of them.
template <class Body>
inline void over_units(std::size_t units, const Body& body) {
    std::size_t i = 0;
    for (; i + width <= units; i += width) body(i, width);
    if (i < units) body(i, static_cast<int>(units - i));
}

inline Vec load_up_to(const float* p, int count) {
    return count == width ? load(p) : load_part(p, count);
}

inline void store_up_to(float* p, Vec v, int count) {
    count == width ? store(p, v) : store_part(p, v, count);
}

void lstm_gates(const Gates& gates, std::size_t units, float* c, float* h) {
    over_units(units, [=, &gates](std::size_t at, int count) {
        const auto sum = [=, &gates](std::size_t gate) {
            return load_up_to(gates.input + gate * gates.input_stride + at, count) +
                   load_up_to(gates.recurrent + gate * gates.recurrent_stride + at, count);
        };
        const Vec cell = logistic(sum(1)) * load_up_to(c + at, count) + logistic(sum(0)) * hyperbolic_tangent(sum(2));
        store_up_to(c + at, cell, count);
        store_up_to(h + at, logistic(sum(3)) * hyperbolic_tangent(cell), count);
    });
}

void gru_gates(const Gates& gates, std::size_t units, const float* before, float* h) {
    over_units(units, [=, &gates](std::size_t at, int count) {
        const auto input = [=, &gates](std::size_t gate) {
            return load_up_to(gates.input + gate * gates.input_stride + at, count);
        };
        const auto recurrent = [=, &gates](std::size_t gate) {
            return load_up_to(gates.recurrent + gate * gates.recurrent_stride + at, count);
        };
        const Vec reset = logistic(input(0) + recurrent(0));
        const Vec keep = logistic(input(1) + recurrent(1));
        const Vec fresh = hyperbolic_tangent(input(2) + reset * recurrent(2));
        store_up_to(h + at, (all(1.0f) - keep) * fresh + keep * load_up_to(before + at, count), count);
    });
}
