// Who may include what: the last column of the table of folders in the project's design, and the
// libraries that only one folder may know.
#pragma once

#include <vector>

#include "tests/support/source_tree.hpp"

namespace orrery {

// All breaches in the C++ files of the tree:
// - a folder includes a folder it may not, a file that is not there, or one of ours not written
// from the root in quotes;
// - a confined library is included outside its folders, directly or through our own headers;
// - files, or folders of that table, include each other in a circle; a source file is included. The
// subfolders of
//   algorithms/ are one library and one folder here.
std::vector<Offence> check_layering(const SourceTree& tree);

}  // namespace orrery
