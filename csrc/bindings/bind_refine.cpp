// Python face of csrc/search/refine.h; refine_search.py puts texts in place of numbers.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>

#include "search/refine.h"

namespace py = pybind11;

namespace {

using Integers = py::array_t<std::int64_t, py::array::c_style>;  // smaller integers are widened, floats are refused

}  // namespace

void bind_refine(py::module_& m) {
    using spf::RefineCost;
    using spf::RefineNode;
    using spf::RefineOptions;
    using spf::RefineOrder;
    using spf::RefineTree;
    using spf::RefineWant;
    using spf::Vote;
    py::enum_<RefineOrder>(m, "RefineOrder")
        .value("breadth", RefineOrder::kBreadth)
        .value("depth", RefineOrder::kDepth);
    py::class_<RefineOptions>(m, "RefineOptions",
                              "How a tree is searched; refine_search.py says what each option means")
        .def(py::init<>())
        .def_readwrite("order", &RefineOptions::order)
        .def_readwrite("branch", &RefineOptions::branch)
        .def_readwrite("keep", &RefineOptions::keep)
        .def_readwrite("depth", &RefineOptions::depth)
        .def_readwrite("judgements", &RefineOptions::judgements)
        .def_readwrite("judge_attempts", &RefineOptions::judge_attempts)
        .def_readwrite("refine_attempts", &RefineOptions::refine_attempts)
        .def_readwrite("accept", &RefineOptions::accept);
    py::class_<RefineWant>(m, "RefineWant", "What a tree waits for: refinements of a node, or verdicts on a text")
        .def_readonly("node", &RefineWant::node, "-1 where verdicts are wanted")
        .def_readonly("text", &RefineWant::text, "of the node, or what is judged")
        .def_readonly("branch", &RefineWant::branch, "the first of the branches that are wanted")
        .def_readonly("count", &RefineWant::count)
        .def_readonly("attempt", &RefineWant::attempt)
        .def_readonly("number", &RefineWant::number, "names the draws of refinements, with the attempt")
        .def_property_readonly("is_judgement", &RefineWant::is_judgement);
    py::class_<RefineNode>(m, "RefineNode", "A response in a tree; parents come before their children")
        .def_readonly("parent", &RefineNode::parent, "-1 of the root")
        .def_readonly("depth", &RefineNode::depth)
        .def_readonly("branch", &RefineNode::branch)
        .def_readonly("text", &RefineNode::text)
        .def_readonly("value", &RefineNode::value);
    py::class_<Vote>(m, "RefineVote", "The vote on one text")
        .def_property_readonly("decided", [](const Vote& vote) { return vote.state == Vote::State::kDecided; })
        .def_readonly("yes", &Vote::yes)
        .def_readonly("no", &Vote::no)
        .def_readonly("kept", &Vote::kept, "the first verdict of the majority");
    py::class_<RefineCost>(m, "RefineCost", "What a tree has asked for")
        .def_readonly("rounds", &RefineCost::rounds)
        .def_readonly("requests", &RefineCost::requests)
        .def_readonly("samples", &RefineCost::samples);
    py::class_<RefineTree>(m, "RefineTree", "A tree that searches by refinement")
        .def(py::init<const RefineOptions&, bool>(), py::arg("options"), py::arg("judged"),
             "judged: is the critique of the first response known? Raises ValueError on a wrong option.")
        .def("wanted", &RefineTree::wanted, "What it waits for now, empty when it is over.")
        .def(
            "answer",
            [](RefineTree& self, const Integers& answers) {
                return self.answer({answers.data(), static_cast<std::size_t>(answers.size())});
            },
            py::arg("answers"), R"(The answers to all that is `wanted`, in order; is the search over now?

answers int64[sum of counts]: of a refinement the number of its text (equal texts have equal numbers, the first response
has 0), of a verdict 1 for yes and 0 for no; -1 for what cannot be read. Raises ValueError for another length or range,
and nothing changes.)")
        .def_property_readonly("accepted", &RefineTree::accepted)
        .def_property_readonly("final_node", &RefineTree::final_node, "-1 where there is none")
        .def_property_readonly("nodes", &RefineTree::nodes, py::return_value_policy::reference_internal)
        .def_property_readonly("cost", &RefineTree::cost, py::return_value_policy::reference_internal)
        .def("vote", [](const RefineTree& tree, std::size_t text) { return tree.votes().at(text); }, py::arg("text"));
}
