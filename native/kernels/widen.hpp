// Stored values to f32. (The vectors read here are those of dot.hpp.)

template <class Values>
inline void widen(const void* raw, std::size_t size, float scale, float* out) {
    const auto* values = static_cast<const typename Values::Element*>(raw);
    const Vec factor = all(scale);
    std::size_t i = 0;
    for (; i + width <= size; i += width) store(out + i, factor * Values::read(values + i));
    if (i == size) return;
    typename Values::Element rest[width] = {};
    for (std::size_t j = i; j < size; ++j) rest[j - i] = values[j];
    store_part(out + i, factor * Values::read(rest), static_cast<int>(size - i));
}

void widen_f16(const void* values, std::size_t size, float* out) {
    widen<F16Values>(values, size, 1.0f, out);
}

void widen_int8(const void* values, std::size_t size, float scale, float* out) {
    widen<Int8Values>(values, size, scale, out);
}
