// Shards of labelled data that differ in their labels, one for each replica: what makes workers
// that average seldom drift apart.
//
// Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
// Classification", 2019 (arXiv 1909.06335), section 3: the labels of a shard follow q ~ Dir(alpha
// p), where p is the share of each label in all data. At a large alpha shards are alike; at a small
// one a shard has few labels. Here every record is in one shard, so that what all replicas learn
// from together is the data as it is, and shards are of equal size: they take turns at taking a
// record, of a label drawn by their q among the labels of which some are left. So shards are a
// little less skewed than q at a small alpha.
//
// Labels are the classes of pictures, and of a text equal ranges of it, whose records are as long
// as a sample and its target. Records of a label go to the shards in the order of the data, so that
// a shard of a text has a seam or two per label.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "scenarios/scenario.hpp"

namespace orrery {

// How many records of each label (by column) go to each shard (by row), of labels with so many
// records each. A function of its arguments alone.
std::vector<std::vector<std::int64_t>> deal_labels(const std::vector<std::int64_t>& records,
                                                   int shards, double concentration,
                                                   std::uint64_t seed);

// The shards of the data of a scenario with data.label_skew: of the text without what is held out,
// or of pictures.
std::vector<std::shared_ptr<const std::string>> skewed_shards(const Scenario& scenario,
                                                              std::string_view data);

// That there are labels, and records enough. For a scenario whose sizes are right.
void check_label_skew(const Scenario& scenario, Problems& problems);

}  // namespace orrery
