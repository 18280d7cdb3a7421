// Binds the game batches.
#pragma once

#include <pybind11/pybind11.h>

namespace spf {
void bind_games(pybind11::module_& m);
}
