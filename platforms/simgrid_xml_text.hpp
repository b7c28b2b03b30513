// The text of a SimGrid platform with its places, and the elements that are read. Internal to
// simgrid_xml.cpp.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <pugixml.hpp>
#include <set>
#include <string>
#include <vector>

#include "backend/core/config_error.hpp"
#include "backend/core/text.hpp"

namespace orrery {

// What may stand in the file and says nothing of hosts, links and routes.
inline const std::set<std::string> left_alone{"prop", "config", "random", "disk", "mount"};

struct Element {
  const char* name;
  std::vector<std::string> required, others, ignored;
};
inline const std::vector<Element>& elements() {
  static const std::vector<Element> all{
      {"zone", {"id", "routing"}, {}, {}},
      {"cluster",
       {"id", "prefix", "suffix", "radical", "bw", "lat"},
       {"sharing_policy", "bb_bw", "bb_lat", "bb_sharing_policy", "router_id"},
       {"speed", "core", "loopback_bw", "loopback_lat"}},
      {"host", {"id"}, {}, {"speed", "core", "pstate", "coordinates"}},
      {"router", {"id"}, {}, {"coordinates"}},
      {"link", {"id", "bandwidth"}, {"latency", "sharing_policy"}, {}},
      {"route", {"src", "dst"}, {"symmetrical"}, {}},
      {"zoneRoute", {"src", "dst", "gw_src", "gw_dst"}, {"symmetrical"}, {}},
      {"link_ctn", {"id"}, {"direction"}, {}}};
  return all;
}

// Names of versions before 4.
inline std::string modern(std::string name) {
  if (name == "AS") return "zone";
  if (name == "ASroute") return "zoneRoute";
  return name;
}

// Collects what is wrong, each at its element or attribute.
class XmlText {
 public:
  XmlText(const std::string& text, const std::string& file)
      : text_(text), source_(std::make_shared<const SourceText>(file, text)) {
    for (std::size_t at = 0; at < text.size(); ++at)
      if (text[at] == '\n') lines_.push_back(at + 1);
  }

  const std::string& text() const { return text_; }
  Problems& problems() { return problems_; }

  Mark mark(std::size_t offset, std::size_t length) const {
    offset = std::min(offset, text_.size());
    const auto begin = std::upper_bound(lines_.begin(), lines_.end(), offset) - 1;
    const int line = 1 + static_cast<int>(begin - lines_.begin());
    if (line > source_->line_count())  // behind the last line's end
      return {source_, source_->line_count(),
              1 + static_cast<int>(code_points(source_->line(source_->line_count()))), 1};
    const auto before = code_points(text_.substr(*begin, offset - *begin));
    const auto most = code_points(source_->line(line));  // less where the line ends in \r\n
    const int column = 1 + static_cast<int>(std::min(before, most));
    return {source_, line, column, static_cast<int>(std::max<std::size_t>(length, 1))};
  }
  void fail_at(std::size_t offset, std::size_t length, const std::string& what,
               const std::string& hint = "") {
    problems_.add(mark(offset, length), what, hint);
  }
  Mark mark(const pugi::xml_node& node) const {
    return mark(static_cast<std::size_t>(std::max<std::ptrdiff_t>(node.offset_debug(), 0)),
                std::string_view(node.name()).size());
  }
  // Of the attribute's value: where its name with '=' stands in the tag.
  Mark mark(const pugi::xml_node& node, const std::string& attribute) const {
    const auto begin = static_cast<std::size_t>(std::max<std::ptrdiff_t>(node.offset_debug(), 0));
    const std::size_t end = std::min(text_.find('>', begin), text_.size());
    for (std::size_t at = begin; (at = text_.find(attribute, at)) < end; ++at) {
      const std::size_t equals = text_.find_first_not_of(" \t\r\n", at + attribute.size());
      const bool whole =
          at > 0 && std::string_view(" \t\r\n").find(text_[at - 1]) != std::string::npos;
      if (whole && equals < end && text_[equals] == '=') return mark(at, attribute.size());
    }
    return mark(node);
  }
  void fail(const pugi::xml_node& node, const std::string& what, const std::string& hint = "") {
    problems_.add(mark(node), what, hint);
  }
  void fail(const pugi::xml_node& node, const std::string& attribute, const std::string& what,
            const std::string& hint) {
    problems_.add(mark(node, attribute), what, hint);
  }

  // Whether the element has what it needs and nothing that would be overlooked.
  bool check(const pugi::xml_node& node) {
    const std::string name = modern(node.name());
    const Element* known = nullptr;
    for (const Element& element : elements())
      if (name == element.name) known = &element;
    bool good = true;
    for (const std::string& needed : known->required)
      if (!node.attribute(needed.c_str())) {
        fail(node, fmt::format("<{}> needs {}=\"…\"", name, needed));
        good = false;
      }
    std::vector<std::string> all = known->required;
    all.insert(all.end(), known->others.begin(), known->others.end());
    for (const pugi::xml_attribute& attribute : node.attributes()) {
      const std::string key = attribute.name();
      if (std::count(all.begin(), all.end(), key) +
              std::count(known->ignored.begin(), known->ignored.end(), key) >
          0)
        continue;
      if (*attribute.value() == '\0') continue;
      fail(node, key, fmt::format("{} of <{}> is not read", key, name), did_you_mean(key, all));
      good = false;
    }
    return good;
  }

 private:
  const std::string& text_;
  std::shared_ptr<const SourceText> source_;
  std::vector<std::size_t> lines_{0};  // where each begins
  Problems problems_;
};

}  // namespace orrery
