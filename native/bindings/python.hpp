// What the files of the extension module isogrid._native share.
#pragma once

#include <nanobind/nanobind.h>

#include <new>

#include "isogrid/status.hpp"

// MemoryError or ValueError, unless the status is ok.
inline void check(isogrid::Status status) {
    if (status == isogrid::Status::out_of_memory) throw std::bad_alloc();
    if (status != isogrid::Status::ok) throw nanobind::value_error(isogrid::message(status));
}

void add_codec(nanobind::module_& module);
void add_engine(nanobind::module_& module);
void add_recurrent(nanobind::module_& module);
