// What drawings and pages share.
#pragma once

#include <array>
#include <string>

namespace orrery::cli {

// Paul Tol's bright scheme, told apart by the colour-blind too.
inline constexpr std::array<const char*, 7> series_colours{
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#555555"};

// As the text of an element, or the value of an attribute in double quotes; control characters that
// XML cannot hold become "?".
std::string escape_xml(const std::string& text);

}  // namespace orrery::cli
