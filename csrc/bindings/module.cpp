// The Python module selfplay_fast._native: one bind function per domain.
#include <pybind11/pybind11.h>

#include "bindings/bind_games.h"

void bind_learn(pybind11::module_& m);
void bind_refine(pybind11::module_& m);
void bind_rollout(pybind11::module_& m);
void bind_search(pybind11::module_& m);
void bind_solvers(pybind11::module_& m);

PYBIND11_MODULE(_native, m) {
    m.doc() = "C++ engines, search, solvers, token trees and scans of selfplay_fast";
    spf::bind_games(m);
    spf::bind_cuda(m);
    bind_learn(m);
    bind_refine(m);
    bind_rollout(m);
    bind_search(m);
    bind_solvers(m);
}
