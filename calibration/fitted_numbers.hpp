// Numbers of a device made from its measurements, with their sources.
#pragma once

#include <string>
#include <vector>

#include "calibration/fit.hpp"
#include "platforms/platform.hpp"

namespace orrery {

template <class T>
Sourced<T> assumed(T value, const char* note) {
  Sourced<T> out(value);
  out.source = Source{};
  out.source->note = note;
  return out;
}

// The median to picoseconds. Error{internal} for none.
Seconds typical(const std::vector<double>& seconds);

// The largest rate measured on a device of which nothing else was busy: FLOP/s of GEMMs of a type,
// 0 where there are none; bytes/s of vectors added up.
double fastest_product(const std::vector<KernelSamples>& samples, Dtype dtype);
double fastest_stream(const std::vector<KernelSamples>& samples);

// fit_edge with where it comes from.
Sourced<double> fitted_edge(const std::vector<KernelSamples>& samples,
                            const GemmConstants& constants, const std::string& cases);

}  // namespace orrery
