#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "io/atomic_file.h"
#include "io/dtype.h"
#include "lora/state_dict.h"

namespace lora {

namespace {

constexpr size_t kMostHeader = 100'000'000;  // what readers of the format accept

// A JSON string as the reference writes it: UTF-8 as it is, control characters escaped.
std::string quoted(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::usage, "\"{}\" is not UTF-8; a safetensors file cannot hold it", text);
  }
}

std::vector<const StateDict::Item*> in_file_order(const StateDict& tensors) {
  std::vector<const StateDict::Item*> order;
  for (const auto& item : tensors) {
    check(item.first != "__metadata__", ErrorKind::usage,
          "\"__metadata__\" cannot name a tensor of a safetensors file");
    check(item.second.defined(), ErrorKind::usage, "tensor \"{}\" is undefined and cannot be saved", item.first);
    check(item.second.layout() == at::kStrided, ErrorKind::unsupported,
          "tensor \"{}\" is sparse; only dense tensors can be saved", item.first);
    check(dtype_to_safetensors(item.second.scalar_type()).has_value(), ErrorKind::unsupported,
          "tensor \"{}\" has dtype {}, which the safetensors format lacks", item.first,
          to_string(item.second.scalar_type()));
    order.push_back(&item);
  }
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(-safetensors_rank(a->second.scalar_type()), std::string_view(a->first)) <
           std::pair(-safetensors_rank(b->second.scalar_type()), std::string_view(b->first));
  });
  return order;
}

std::string header_text(const std::vector<const StateDict::Item*>& order,
                        const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  auto separator = [&] { return text.size() > 1 ? "," : ""; };
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata)
      text += fmt::format("{}{}:{}", text.back() == '{' ? "" : ",", quoted(key), quoted(value));
    text += '}';
  }
  uint64_t position = 0;
  for (const auto* item : order) {
    const auto& [name, tensor] = *item;
    uint64_t end = position + tensor.nbytes();
    text += fmt::format(R"({}{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", separator(), quoted(name),
                        *dtype_to_safetensors(tensor.scalar_type()), fmt::join(tensor.sizes(), ","), position, end);
    position = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data begins at a multiple of 8
  return text;
}

}  // namespace

void save_safetensors(const StateDict& tensors, const std::filesystem::path& file) {
  auto order = in_file_order(tensors);
  std::string header = header_text(order, tensors.metadata);
  check(header.size() <= kMostHeader, ErrorKind::unsupported, "{}: its header would have {} bytes; readers accept {}",
        file.string(), header.size(), kMostHeader);

  AtomicFile out(file);
  uint64_t length = header.size();
  out.write(&length, sizeof length);
  out.write(header.data(), header.size());
  for (const auto* item : order) {
    // One tensor at a time: neither a model on a GPU nor a transposed one is ever held twice.
    Tensor dense = item->second.detach().cpu().resolve_conj().resolve_neg().contiguous();
    if (dense.nbytes() > 0) out.write(dense.const_data_ptr(), dense.nbytes());
  }
  out.commit();
}

}  // namespace lora
