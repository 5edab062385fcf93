#pragma once
// The recorded cases of one model, and the checks that the tests of all models make with them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>

#include "models/parts_of.h"
#include "models/reference_model.h"
#include "support/compare.h"

namespace lora {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

template <class Work>
void expect_error(ErrorKind kind, const testing::Matcher<std::string>& message, Work work) {
  EXPECT_THAT(error_of(kind, work), message);
}

// Expects that `got` is about as accurate as `theirs`, both in a half type. Two ways of rounding a result differ from
// each other by about as much as either of them differs from the exact result.
inline void expect_as_accurate(const Tensor& got, const Tensor& theirs, const Tensor& exact, double factor = 1.5) {
  EXPECT_EQ(got.scalar_type(), theirs.scalar_type());
  EXPECT_LT(distance(got, theirs), factor * distance(theirs, exact));
  EXPECT_LT(distance(got, exact), factor * distance(theirs, exact));
}

}  // namespace lora

namespace lora::reference {

// <name>_cases.json describes models and calls, <name>_outputs.safetensors has what the reference library computed.
template <class Model>
class Cases {
 public:
  explicit Cases(std::string name) : name_(std::move(name)) {}

  // All cases, by name. Each has a "config" and its "layers".
  const json& all() const {
    if (all_.is_null()) all_ = read(name_ + "_cases.json");
    return all_;
  }
  const json& operator[](const std::string& name) const { return all().at(name); }
  // The recorded output of that name.
  const Tensor& expected(const std::string& name) const {
    if (!expected_) expected_ = load_state_dict(data(name_ + "_outputs.safetensors"));
    return expected_->at(name);
  }

  StateDict tensors_of(const std::string& name) const { return reference::tensors_of((*this)[name]["layers"]); }
  // The model of a case, or of a changed copy of a case.
  Model make(const std::string& name, Dtype dtype = at::kFloat) const { return make_from((*this)[name], dtype); }
  Model make_from(const json& reference_case, Dtype dtype = at::kFloat) const {
    return Model::from_state_dict(reference_case["config"].dump(), reference::tensors_of(reference_case["layers"]),
                                  {.dtype = dtype});
  }

  // Expects that the case with this value of a config field throws an Error that names the field.
  void expect_refused(const std::string& name, const std::string& field, const json& value, ErrorKind kind) const {
    auto changed = (*this)[name];
    changed["config"][field] = value;
    expect_error(kind, AllOf(HasSubstr("state dict"), HasSubstr('"' + field + '"')), [&] { make_from(changed); });
  }

  // The models of <name>_full_size.json, on the device meta. Expects that published models have the same tensors.
  std::map<std::string, Model> full_size() const {
    std::map<std::string, Model> models;
    const auto published = read(name_ + "_full_size.json");
    for (const auto& [name, model] : published.items()) {
      auto tensors = reference::tensors_of(model["layers"], meta);
      auto made = Model::from_state_dict(model["config"].dump(), tensors, {.dtype = at::kFloat, .device = at::kMeta});
      EXPECT_EQ(made.state_dict().size(), tensors.size()) << name;
      models.emplace(name, std::move(made));
    }
    return models;
  }

  // Expects that all tensors of the cases belong to sites, except for `others` in each.
  void expect_sites(size_t others = 0) const {
    for (const auto& [name, reference_case] : all().items()) {
      auto model = make_from(reference_case);
      auto tensors = others;
      for (const auto& site : parts_of(model).sites) {
        tensors += 1 + site->bias.defined();
        EXPECT_EQ(parts_of(model).by_path.at(site->path), site.get());
        EXPECT_TRUE(model.state_dict().contains(site->path + ".weight")) << site->path;
      }
      EXPECT_EQ(tensors, model.state_dict().size()) << name;
    }
  }

 private:
  std::string name_;
  mutable json all_;
  mutable std::optional<StateDict> expected_;
};

}  // namespace lora::reference
