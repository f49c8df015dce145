// Which compiled set of kernels runs.
#pragma once

#include "isogrid/status.hpp"

namespace isogrid {

struct Kernels;

inline constexpr int max_targets = 4;

// The names of the targets that this processor can run, best first; returns how many.
int available_targets(const char* (&names)[max_targets]) noexcept;

// The target in use: the best, or the one that the environment variable ISOGRID_TARGET names when it is first asked
// for. A name that is not available is ignored here; `select_target` tells.
const char* current_target() noexcept;

// Use another target from now on. For tests and comparisons; operations that run meanwhile finish with the old one.
Status select_target(const char* name) noexcept;

const Kernels& kernels() noexcept;

}  // namespace isogrid
