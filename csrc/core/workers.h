// Splits rows over threads. Rows share nothing, ranges are contiguous, and a small job stays on the calling thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace spf {

inline constexpr std::int64_t kWorthAThreadNs = 50'000;  // starting and joining one costs about a third of this

inline int default_threads() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

// Calls body(begin, end) on disjoint ranges that cover 0 .. rows-1; returns when all are done. An exception of the
// body is rethrown here (the one of the lowest range, if several throw).
template <class Body>
void parallel_rows(std::int64_t rows, int threads, std::int64_t ns_per_row, const Body& body) {
    const std::int64_t worth = rows * ns_per_row / kWorthAThreadNs;
    const std::int64_t parts = std::min({static_cast<std::int64_t>(threads), rows, worth});
    if (parts <= 1) {
        body(std::int64_t{0}, rows);
        return;
    }
    std::vector<std::exception_ptr> failures(static_cast<std::size_t>(parts));
    const auto run = [&](std::int64_t part) noexcept {
        try {
            body(rows * part / parts, rows * (part + 1) / parts);
        } catch (...) {
            failures[static_cast<std::size_t>(part)] = std::current_exception();
        }
    };
    {
        std::vector<std::jthread> others;
        others.reserve(static_cast<std::size_t>(parts - 1));
        for (std::int64_t part = 1; part < parts; ++part) others.emplace_back(run, part);
        run(0);
    }
    for (const std::exception_ptr& failure : failures) {
        if (failure) std::rethrow_exception(failure);
    }
}

}  // namespace spf
