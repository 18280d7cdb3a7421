// Python faces of csrc/search: search_rows searches and forgets, Search keeps its trees. The module search.py checks
// what users pass; here is checked what memory depends on.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>

#include "bindings/any_search.h"
#include "games/all_games.h"

namespace py = pybind11;

namespace spf {

#define SPF_DECLARE(Game) \
    template <>           \
    SearchEntry search_entry<Game>();
SPF_FOR_EACH_GAME(SPF_DECLARE)
#undef SPF_DECLARE

namespace {

using Integers = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;
using Words = py::array_t<std::uint64_t, py::array::c_style | py::array::forcecast>;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

SearchEntry entry_of(const AnyBatch& batch) {
    const std::string& name = batch.info().name;
#define SPF_TRY(Game) \
    if (name == Game::kName) return search_entry<Game>();
    SPF_FOR_EACH_GAME(SPF_TRY)
#undef SPF_TRY
    throw std::invalid_argument("unknown game '" + name + "'");
}

SearchCall call_of(const SearchOptions& options, const Words& seeds, int threads, std::int64_t rows) {
    const bool shared = seeds.ndim() == 0;
    if (!shared && (seeds.ndim() != 1 || seeds.size() != rows)) {
        throw std::invalid_argument("seed must be one number, or one for each of the " + std::to_string(rows) +
                                    " rows");
    }
    return {options,
            {{seeds.data(), static_cast<std::size_t>(seeds.size())}, shared},
            threads > 0 ? threads : default_threads()};
}

// Arrays for what is found, and views of them.
struct Results {
    py::array_t<std::int64_t> visits, actions;
    py::array_t<float> values;

    Results(std::int64_t rows, int actions_of_game)
        : visits({rows, static_cast<std::int64_t>(actions_of_game)}),
          actions(rows),
          values({rows, static_cast<std::int64_t>(actions_of_game)}) {
        std::fill_n(visits.mutable_data(), visits.size(), 0);
        std::fill_n(values.mutable_data(), values.size(), 0.0f);
    }
    Found views() {
        return {{visits.mutable_data(), static_cast<std::size_t>(visits.size())},
                {values.mutable_data(), static_cast<std::size_t>(values.size())},
                {actions.mutable_data(), static_cast<std::size_t>(actions.size())}};
    }
    py::tuple tuple() const { return py::make_tuple(visits, values, actions); }
};

py::tuple search(const AnyBatch& batch, const std::optional<Integers>& rows, const SearchOptions& options,
                 const Words& seeds, int threads, Observers observers) {
    const auto count = rows ? static_cast<std::int64_t>(rows->size()) : batch.size();
    Rows which;
    if (rows) which = std::span<const std::int64_t>(rows->data(), static_cast<std::size_t>(count));
    if (which) {
        for (const std::int64_t row : *which) {
            if (row < 0 || row >= batch.size()) throw std::invalid_argument(wrong_row(row, batch.size()));
        }
    }
    const SearchCall call = call_of(options, seeds, threads, count);
    Results results(count, batch.info().num_actions);
    const Found found = results.views();
    if (count > 0) {
        const py::gil_scoped_release unlocked;
        const Looks shared(batch.in_use());
        entry_of(batch).search(batch, which, call, observers, found);
    }
    return results.tuple();
}

// One thread at a time has a search; after an exception (its memory ran out) its trees are not used again.
template <class Call>
auto alone(AnySearch& self, const Call& call) {
    const py::gil_scoped_release unlocked;
    const std::lock_guard mine(self.in_use());
    if (self.failed) throw std::invalid_argument("this search failed before; begin a new one");
    try {
        return call();
    } catch (const std::invalid_argument&) {  // refused before anything changed
        throw;
    } catch (...) {
        self.failed = true;
        throw;
    }
}

void expand(AnySearch& self, const Floats& weights, const Floats& returns) {
    alone(self, [&] {
        const auto leaves = static_cast<py::ssize_t>(self.leaf_rows().size());
        const GameInfo& info = self.games().info();
        if (weights.size() != leaves * info.num_actions || returns.size() != leaves * info.num_players) {
            throw std::invalid_argument("expand: one answer for each of the " + std::to_string(leaves) +
                                        " leaves is wanted");
        }
        self.expand({weights.data(), static_cast<std::size_t>(weights.size())},
                    {returns.data(), static_cast<std::size_t>(returns.size())});
    });
}

}  // namespace
}  // namespace spf

void bind_search(py::module_& m) {
    using spf::AnySearch;
    using spf::Observers;
    using spf::Rule;
    using spf::SearchOptions;
    py::enum_<Rule>(m, "Rule").value("uct", Rule::kUct).value("puct", Rule::kPuct).value("gumbel", Rule::kGumbel);
    py::enum_<Observers>(m, "Observers")
        .value("all", Observers::kAll)
        .value("single", Observers::kSingle)
        .value("multiple", Observers::kMultiple);
    py::class_<SearchOptions>(m, "SearchOptions", "How a tree is searched; search.py says what each option means")
        .def(py::init<>())
        .def_readwrite("rule", &SearchOptions::rule)
        .def_readwrite("simulations", &SearchOptions::simulations)
        .def_readwrite("c", &SearchOptions::c)
        .def_readwrite("rollouts", &SearchOptions::rollouts)
        .def_readwrite("solve", &SearchOptions::solve)
        .def_readwrite("insist", &SearchOptions::insist)
        .def_readwrite("transpositions", &SearchOptions::transpositions)
        .def_readwrite("considered", &SearchOptions::considered)
        .def_readwrite("noise", &SearchOptions::noise)
        .def_readwrite("alpha", &SearchOptions::alpha)
        .def_readwrite("virtual_loss", &SearchOptions::virtual_loss)
        .def_readwrite("temperature", &SearchOptions::temperature)
        .def_readwrite("max_bytes", &SearchOptions::max_bytes);
    m.def("search_rows", &spf::search, py::arg("batch"), py::arg("rows"), py::arg("options"), py::arg("seeds"),
          py::arg("threads"), py::arg("observers"),
          "(visits int64[K, A], mean returns float32[K, A], actions int64[K]) of searches from the rows.");
    m.def("considered_visits", &spf::considered_visits, py::arg("actions"), py::arg("simulations"),
          "Sequential halving: the visits an action must have to be considered, for every simulation.");
    m.def(
        "completed_values",
        [](const spf::Floats& priors,
           const py::array_t<std::uint32_t, py::array::c_style | py::array::forcecast>& visits,
           const spf::Floats& values, float own_value) {
            if (priors.size() != visits.size() || priors.size() != values.size()) {
                throw std::invalid_argument("priors, visits and values must have one entry per action");
            }
            const auto size = static_cast<std::size_t>(priors.size());
            py::array_t<float> completed(priors.size());
            spf::completed_values({priors.data(), size}, {visits.data(), size}, {values.data(), size}, own_value,
                                  {completed.mutable_data(), size});
            return completed;
        },
        py::arg("priors"), py::arg("visits"), py::arg("values"), py::arg("own_value"),
        "Completed action values, transformed for the improved policy softmax(log prior + completed).");

    py::class_<AnySearch>(m, "Search", "Trees over the rows of a copy of a batch, kept from call to call")
        .def(py::init(
                 [](const spf::AnyBatch& batch, const SearchOptions& options, const spf::Words& seeds, int threads) {
                     const spf::Looks shared(batch.in_use());
                     return spf::entry_of(batch).keep(batch, spf::call_of(options, seeds, threads, batch.size()));
                 }),
             py::arg("batch"), py::arg("options"), py::arg("seeds"), py::arg("threads"))
        .def("run", [](AnySearch& self) { spf::alone(self, [&] { self.run(); }); })
        .def(
            "select", [](AnySearch& self, int most) { return spf::alone(self, [&] { return self.select(most); }); },
            py::arg("most"), "The leaves to evaluate as games, or None.")
        .def_property_readonly("leaf_rows",
                               [](AnySearch& self) {
                                   const auto rows = spf::alone(self, [&] { return self.leaf_rows(); });
                                   return py::array_t<std::int64_t>(static_cast<py::ssize_t>(rows.size()), rows.data());
                               })
        .def("expand", &spf::expand, py::arg("weights"), py::arg("returns"))
        .def(
            "advance",
            [](AnySearch& self, const spf::Integers& actions) {
                spf::alone(self, [&] { self.advance({actions.data(), static_cast<std::size_t>(actions.size())}); });
            },
            py::arg("actions"))
        .def("results",
             [](AnySearch& self) {
                 spf::Results results(self.games().size(), self.games().info().num_actions);
                 const spf::Found views = results.views();
                 spf::alone(self, [&] { self.read(views); });
                 return results.tuple();
             })
        .def("policy", [](AnySearch& self) {
            py::array_t<float> policy(
                {self.games().size(), static_cast<std::int64_t>(self.games().info().num_actions)});
            std::fill_n(policy.mutable_data(), policy.size(), 0.0f);
            const std::span<float> shares(policy.mutable_data(), static_cast<std::size_t>(policy.size()));
            spf::alone(self, [&] { self.read_policy(shares); });
            return policy;
        });
}
