// What fuzz targets of readers demand of every input.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "backend/core/document.hpp"
#include "backend/core/text.hpp"

namespace orrery::fuzz {

inline void require(bool condition, const char* what, const std::string& detail = "") {
  if (condition) return;
  std::fprintf(stderr, "broken invariant: %s\n%s\n", what, detail.c_str());
  std::abort();
}

// The text of the comment lines `#set PATH=VALUE`.
inline std::vector<std::string> settings_of(const std::string& text) {
  std::vector<std::string> settings;
  for (const std::string& line : split(text, '\n'))
    if (line.rfind("#set ", 0) == 0 && settings.size() < 8) settings.push_back(line.substr(5));
  return settings;
}

// Every message lies in its text, named "input", or in a setting, and shows the line it speaks of.
inline void check_messages(const ConfigError& error, const std::string& text,
                           const std::vector<std::string>& settings) {
  require(!error.messages.empty(), "an error without messages");
  require(std::string(error.what()).find("error[config]: ") == 0, "an error that is not rendered");
  const SourceText file("input", text);
  for (const ConfigMessage& m : error.messages) {
    const std::string shown = render(m);
    require(!m.text.empty(), "an empty message");
    require(invalid_utf8(shown) == std::string::npos, "a message that is not UTF-8", shown);
    require(m.length >= 1, "an empty mark", shown);
    if (m.file == "--set") {
      bool found = false;
      for (const std::string& setting : settings) {
        const SourceText source("--set", setting);
        found = found || (m.line <= source.line_count() &&
                          (m.excerpt.empty() || m.excerpt == source.line(m.line)));
      }
      require(found, "a message outside the settings", shown);
      continue;
    }
    require(m.file == "input", "a message about another file", shown);
    require(m.line >= 1 && m.line <= file.line_count(), "a line outside the text", shown);
    const auto columns = static_cast<int>(code_points(file.line(m.line)));
    require(m.column >= 1 && m.column <= columns + 1, "a column outside the line", shown);
  }
}

// What is left of an input without the byte order mark that the reader drops.
inline std::string without_mark(const std::string& input) {
  return input.compare(0, 3, "\xEF\xBB\xBF") == 0 ? input.substr(3) : input;
}

}  // namespace orrery::fuzz
