// Small helpers on text and files that the standard library lacks.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace orrery {

// Number of insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
std::size_t edit_distance(std::string_view a, std::string_view b);

// The candidate that a user who typed `word` probably meant, or "" when none is close: at most a
// third of the longer word's letters differ. Ties go to the first candidate. Case counts as half.
std::string nearest_name(std::string_view word, const std::vector<std::string>& candidates);

// "did you mean 'X'?" for the nearest candidate, or "".
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

// Pieces between separators, empty ones kept: split("a,,b", ',') is {"a", "", "b"}; split("") is
// {""}.
std::vector<std::string> split(std::string_view text, char separator);
std::string join(const std::vector<std::string>& pieces, std::string_view separator);
// Without leading and trailing spaces, tabs and line ends.
std::string_view trim(std::string_view text);

// Number of code points of UTF-8 text; an invalid byte counts as one.
std::size_t code_points(std::string_view text);
// Offset of the first byte that is not valid UTF-8 (overlong forms and surrogates are invalid), or
// npos.
std::size_t invalid_utf8(std::string_view text);

// The bytes of a file. Throws Error{config} with context "file" when it cannot be read, is no
// regular file, or is larger than `limit` bytes.
std::string read_file(const std::string& path, std::size_t limit = std::size_t{1} << 30);

// Replaces or creates `path` so that readers see the old content or the new, never a part: a
// temporary file in the same folder is written, flushed to disk and renamed. On failure nothing is
// left behind and Error{config} (the folder is missing or not writable) or Error{internal} (disk
// full and the like) carries the context "file".
void write_file_atomically(const std::string& path, std::string_view content);

}  // namespace orrery
