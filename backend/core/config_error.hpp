// Configuration errors: positions, suggestions, and all of them at once.
//
//   error[config]: unknown key 'bandwith' in platform.links[0]
//     --> platforms/h100.yaml:14:7
//      |
//   14 |       bandwith: 450GBps
//      |       ^^^^^^^^ did you mean 'bandwidth'?
#pragma once

#include <string>
#include <vector>

#include "backend/core/config_tree.hpp"
#include "backend/core/error.hpp"

namespace orrery {

struct ConfigMessage {
  std::string file;  // as the user named it; "--set" for command-line settings
  int line = 0;      // from 1; 0 when no position is known
  int column = 0;    // from 1, in code points
  std::string text;
  std::string suggestion;  // a phrase such as "did you mean 'bandwidth'?", or ""
  std::string excerpt;     // the source line
  int length = 1;          // characters to underline
};

ConfigMessage message_at(const Mark&, std::string text, std::string suggestion = "");
// The block shown above, with a final newline.
std::string render(const ConfigMessage&);

// Everything wrong with the configuration, ordered by file, line and column. what() is the rendered
// messages with a blank line between them; they carry the prefix "error[config]: " themselves.
class ConfigError : public Error {
 public:
  explicit ConfigError(std::vector<ConfigMessage> all);

  std::vector<ConfigMessage> messages;
};

class Document;

// Collects problems while configuration is read and checked, then throws them together:
//
//   Problems problems(document);
//   const Scenario s = read<Scenario>(document, problems);
//   if (problems.empty() && gpus % s.parallel.tensor != 0)
//     problems.add("parallel.tensor", "8 GPUs cannot be divided by tensor = 3", "use 1, 2, 4 or
//     8");
//   problems.throw_if_any();
class Problems {
 public:
  Problems() = default;
  // Takes over what the document already knows to be wrong (duplicate keys, bad --set).
  explicit Problems(const Document& document);
  // The same for a collector that exists already; paths are looked up in this document from here
  // on.
  void attach(const Document& document);

  // At a position; at the node that `path` names in the document, else its nearest existing parent.
  void add(const Mark& at, std::string text, std::string suggestion = "");
  void add(std::string_view path, std::string text, std::string suggestion = "");
  // Appends another collector's messages, e.g. those of a second file.
  void merge(const Problems& other);

  bool empty() const { return messages_.empty(); }
  std::size_t size() const { return messages_.size(); }
  // In the order in which ConfigError shows them: files as first met, then by position; no repeats.
  std::vector<ConfigMessage> sorted() const;
  // Throws ConfigError when there is any problem.
  void throw_if_any() const;

 private:
  std::vector<ConfigMessage> messages_;
  std::shared_ptr<const Node> root_;
};

}  // namespace orrery
