#include "algorithms/codecs/codec.hpp"

#include "backend/core/error.hpp"

namespace orrery {

void describe(Fields<CodecSpec>& f) {
  f.field("name", &CodecSpec::name)
      .one_of({"fp32", "fp16", "bf16", "fp8-e4m3", "fp8-e5m2", "int8", "fp4", "qsgd", "sign",
               "sparse", "dct"})
      .doc("how numbers are sent; sums are always in fp32");
  f.field("block", &CodecSpec::block).at_least(1).doc("numbers that share a scale");
  f.field("levels", &CodecSpec::levels).between(1, 127).doc("of qsgd");
  f.field("ratio", &CodecSpec::ratio).positive().at_most(1).doc("of sparse and dct: part kept");
  f.field("chunk", &CodecSpec::chunk).between(2, 65536).doc("of dct: numbers per transform");
}

std::shared_ptr<const Codec> make_codec(const CodecSpec& spec) {
  const std::string& name = spec.name;
  if (name == "fp32") return nullptr;
  if (name == "fp16" || name == "bf16") return make_half_codec(spec);
  if (name == "fp8-e4m3" || name == "fp8-e5m2" || name == "int8" || name == "fp4")
    return make_scaled_codec(spec);
  if (name == "qsgd") return make_qsgd_codec(spec);
  if (name == "sign") return make_sign_codec();
  if (name == "sparse") return make_sparse_codec(spec);
  if (name == "dct") return make_dct_codec(spec);
  throw Error(Category::config, "unknown codec '" + name + "'");
}

}  // namespace orrery
