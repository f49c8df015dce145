#include <atomic>
#include <cstdlib>
#include <cstring>

#include "isogrid/cpu.hpp"
#include "isogrid/executor.hpp"
#include "isogrid/targets.hpp"
#include "kernels/table.hpp"

namespace isogrid {
namespace {

struct Available {
    const Kernels* tables[max_targets];
    int count;
};

Available find_available() noexcept {
    Available found{};
    const CpuFeatures cpu = cpu_features();
    const auto add = [&](const Kernels* table, bool runs) {
        if (table != nullptr && runs) found.tables[found.count++] = table;
    };
    const bool with_avx2 = cpu.avx2 && cpu.fma && cpu.f16c;
    add(avx512_kernels(), with_avx2 && cpu.avx512f && cpu.avx512bw && cpu.avx512dq && cpu.avx512vl);
    add(avx2_kernels(), with_avx2);
    add(neon_kernels(), cpu.neon);
    add(baseline_kernels(), true);
    return found;
}

const Available& available() noexcept {
    static const Available found = find_available();
    return found;
}

const Kernels* by_name(const char* name) noexcept {
    for (int i = 0; name != nullptr && i < available().count; ++i) {
        if (std::strcmp(available().tables[i]->name, name) == 0) return available().tables[i];
    }
    return nullptr;
}

std::atomic<const Kernels*>& chosen() noexcept {
    static std::atomic<const Kernels*> table{[] {
        const Kernels* forced = by_name(std::getenv("ISOGRID_TARGET"));
        return forced != nullptr ? forced : available().tables[0];
    }()};
    return table;
}

}  // namespace

int available_targets(const char* (&names)[max_targets]) noexcept {
    for (int i = 0; i < available().count; ++i) names[i] = available().tables[i]->name;
    return available().count;
}

const Kernels& kernels() noexcept {
    return *chosen().load();
}

const char* current_target() noexcept {
    return kernels().name;
}

Status select_target(const char* name) noexcept {
    const Kernels* table = by_name(name);
    if (table == nullptr) return Status::unknown_target;
    chosen().store(table);
    return Status::ok;
}

Executor serial_executor() noexcept {
    return {nullptr, 1, [](void*, void (*body)(void*, int) noexcept, void* argument, int tasks) {
                for (int i = 0; i < tasks; ++i) body(argument, i);
            }};
}

}  // namespace isogrid
