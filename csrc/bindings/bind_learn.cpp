// Python faces of csrc/learn: sums and advantages over numpy arrays, which selfplay_fast.learn checks and hands over.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "learn/normalise.h"
#include "learn/scans.h"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
template <class T>
using Maybe = std::optional<Array<T>>;

// Null if there is none; throws unless it has the shape.
template <class T>
const T* data_of(const Maybe<T>& array, const std::vector<py::ssize_t>& shape, const std::string& name) {
    if (!array) return nullptr;
    if (!std::equal(shape.begin(), shape.end(), array->shape(), array->shape() + array->ndim()))
        throw std::invalid_argument(name + " has another shape than the values");
    return array->data();
}

template <class Real>
py::object discounted_sums(const Array<Real>& values, const Maybe<std::int64_t>& segments, double discount,
                           double lambda, const Maybe<Real>& baseline, const Maybe<bool>& mask,
                           const Maybe<Real>& discounts, const Maybe<Real>& bootstrap, bool with_returns, int threads) {
    if (values.ndim() != 2) throw std::invalid_argument("discounted_sums: values must be [B, T]");
    if (!(discount >= 0 && discount <= 1)) throw std::invalid_argument("discounted_sums: discount must be from 0 to 1");
    if (!(lambda >= 0 && lambda <= 1)) throw std::invalid_argument("discounted_sums: lambda_ must be from 0 to 1");
    if (threads < 0) throw std::invalid_argument("discounted_sums: threads must be at least 0");
    const std::vector<py::ssize_t> shape(values.shape(), values.shape() + 2), rows{shape[0]};
    Array<Real> sums(shape), returns(with_returns ? shape : std::vector<py::ssize_t>{0, 0});
    spf::Scan<Real> scan{.rows = shape[0],
                         .length = shape[1],
                         .discount = static_cast<Real>(discount),
                         .lambda = static_cast<Real>(lambda),
                         .values = values.data(),
                         .baseline = data_of(baseline, shape, "discounted_sums: baseline"),
                         .mask = reinterpret_cast<const std::uint8_t*>(data_of(mask, shape, "discounted_sums: mask")),
                         .segments = data_of(segments, shape, "discounted_sums: segments"),
                         .discounts = data_of(discounts, shape, "discounted_sums: discount"),
                         .bootstrap = data_of(bootstrap, rows, "discounted_sums: bootstrap"),
                         .sums = sums.mutable_data(),
                         .returns = with_returns ? returns.mutable_data() : nullptr};
    {
        py::gil_scoped_release unlocked;
        if (scan.discounts)
            for (std::int64_t i = 0; i < scan.rows * scan.length; ++i)
                if (!(scan.discounts[i] >= 0 && scan.discounts[i] <= 1))
                    throw std::invalid_argument("discounted_sums: discount must be from 0 to 1 everywhere");
        spf::discounted_sums(scan, threads == 0 ? spf::default_threads() : threads);
    }
    if (!with_returns) return sums;
    return py::make_tuple(sums, returns);
}

template <class Real>
py::array segment_normalise(const Array<Real>& values, const Maybe<std::int64_t>& segments, const Maybe<Real>& weights,
                            const std::optional<std::string>& scale, double eps, bool eps_inside, bool leave_one_out,
                            bool keep_singletons) {
    if (values.ndim() != 1) throw std::invalid_argument("segment_normalise: values must be [N]");
    if (scale && *scale != "biased" && *scale != "unbiased")
        throw std::invalid_argument("segment_normalise: scale must be 'biased', 'unbiased' or None");
    if (!(eps >= 0 && std::isfinite(eps))) throw std::invalid_argument("segment_normalise: eps must be at least 0");
    const std::vector<py::ssize_t> shape{values.size()};
    const Real* weight = data_of(weights, shape, "segment_normalise: weights");
    const std::int64_t* keys = data_of(segments, shape, "segment_normalise: segments");
    const spf::Normalisation how{.spread = !scale                 ? spf::Spread::kNone
                                           : *scale == "unbiased" ? spf::Spread::kUnbiased
                                                                  : spf::Spread::kBiased,
                                 .eps = eps,
                                 .eps_inside = eps_inside,
                                 .leave_one_out = leave_one_out,
                                 .keep_singletons = keep_singletons};
    Array<Real> out(shape);
    const std::span<const Real> in(values.data(), static_cast<std::size_t>(values.size()));
    Real* to = out.mutable_data();
    {
        py::gil_scoped_release unlocked;
        if (weight && !std::all_of(weight, weight + in.size(), [](Real w) { return w >= 0 && std::isfinite(w); }))
            throw std::invalid_argument("segment_normalise: weights must be finite and at least 0");
        spf::segment_normalise(in, keys, weight, how, to);
    }
    return out;
}

py::tuple moving_advantages(const Array<double>& returns, const Array<std::int64_t>& slots,
                            const Array<double>& baselines, double decay, const std::string& order) {
    if (returns.ndim() != 1 || baselines.ndim() != 1)
        throw std::invalid_argument("moving_advantages: returns and baselines must have one dimension");
    if (!(decay >= 0 && decay <= 1)) throw std::invalid_argument("moving_advantages: decay must be from 0 to 1");
    if (order != "post" && order != "pre" && order != "batch")
        throw std::invalid_argument("moving_advantages: order must be 'post', 'pre' or 'batch'");
    const std::int64_t* slot = data_of<std::int64_t>(slots, {returns.size()}, "moving_advantages: slots");
    if (!std::all_of(slot, slot + returns.size(), [&](std::int64_t s) { return s >= 0 && s < baselines.size(); }))
        throw std::invalid_argument("moving_advantages: slots must be from 0 to the number of baselines - 1");
    Array<double> after(std::vector<py::ssize_t>{baselines.size()}), out(std::vector<py::ssize_t>{returns.size()});
    std::copy_n(baselines.data(), baselines.size(), after.mutable_data());
    const auto which = order == "post"  ? spf::BaselineOrder::kPost
                       : order == "pre" ? spf::BaselineOrder::kPre
                                        : spf::BaselineOrder::kBatch;
    spf::moving_advantages({returns.data(), static_cast<std::size_t>(returns.size())}, slot, decay, which,
                           {after.mutable_data(), static_cast<std::size_t>(after.size())}, out.mutable_data());
    return py::make_tuple(out, after);
}

template <class Real>
void bind_for(py::module_& m) {
    m.def("discounted_sums", &discounted_sums<Real>, py::arg("values").noconvert(), py::kw_only(),
          py::arg("segments") = py::none(), py::arg("discount") = 1.0, py::arg("lambda_") = 1.0,
          py::arg("baseline").noconvert() = py::none(), py::arg("mask").noconvert() = py::none(),
          py::arg("discounts").noconvert() = py::none(), py::arg("bootstrap").noconvert() = py::none(),
          py::arg("with_returns") = false, py::arg("threads") = 1,
          "Discounted sums from the right of values [B, T]; with_returns adds sums + baseline. See "
          "learn.discounted_sums.");
    m.def("segment_normalise", &segment_normalise<Real>, py::arg("values").noconvert(), py::kw_only(),
          py::arg("segments") = py::none(), py::arg("weights").noconvert() = py::none(), py::arg("scale") = "unbiased",
          py::arg("eps") = 1e-6, py::arg("eps_inside") = false, py::arg("leave_one_out") = false,
          py::arg("keep_singletons") = false, "Values [N] relative to their segment. See learn.segment_normalise.");
}

}  // namespace

void bind_learn(py::module_& m) {
    bind_for<float>(m);
    bind_for<double>(m);
    m.def("moving_advantages", &moving_advantages, py::arg("returns"), py::arg("slots"), py::arg("baselines"),
          py::kw_only(), py::arg("decay"), py::arg("order"),
          "Advantages [N] over moving averages [S], one per slot, and the new averages. See learn.moving_advantages.");
}
