// Binds the game batches, in the host's memory and in a GPU's.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "core/rows.h"

namespace spf {

void bind_games(pybind11::module_& m);
void bind_cuda(pybind11::module_& m);

// Reads the words of a call; throws std::invalid_argument for others and for a batch_size below 1. threads: 0 for all.
BatchOptions batch_options(std::int64_t size, std::uint64_t seed, int threads, const std::string& chance,
                           const std::string& autoreset);

}  // namespace spf
