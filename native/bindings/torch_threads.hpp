// PyTorch's thread pool, if it has been loaded.
#pragma once

#include "isogrid/executor.hpp"

// PyTorch exports `torch_parallel_for` as part of its stable C interface (torch/csrc/stable/c/shim.h, from 2.10 on). It
// is looked up in the running process, so that this module is built and loaded without PyTorch; where it is missing (an
// older PyTorch, or none) everything runs on the calling thread.
bool find_torch_threads();
isogrid::Executor torch_executor();
