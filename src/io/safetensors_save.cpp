#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "io/atomic_file.h"
#include "io/digest.h"
#include "io/dtype.h"
#include "io/public_call.h"
#include "io/safetensors.h"

namespace lora {

namespace {

constexpr size_t kMostHeader = 100'000'000;  // the most that readers of the format accept

// A JSON string as the reference writes it: UTF-8 unchanged, control characters escaped.
std::string quoted(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::usage, "\"{}\" is not UTF-8; a safetensors file cannot hold it", text);
  }
}

std::vector<const PendingTensor*> in_file_order(const std::vector<PendingTensor>& tensors) {
  std::vector<const PendingTensor*> order;
  for (const auto& tensor : tensors) {
    check(tensor.name != "__metadata__", ErrorKind::usage,
          "\"__metadata__\" cannot name a tensor of a safetensors file");
    check(dtype_to_safetensors(tensor.dtype).has_value(), ErrorKind::unsupported,
          "tensor \"{}\" has dtype {}, which the safetensors format does not have", tensor.name,
          to_string(tensor.dtype));
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(-safetensors_rank(a->dtype), std::string_view(a->name)) <
           std::pair(-safetensors_rank(b->dtype), std::string_view(b->name));
  });
  return order;
}

uint64_t bytes_of(const PendingTensor& tensor) {
  return static_cast<uint64_t>(c10::multiply_integers(tensor.shape)) * c10::elementSize(tensor.dtype);
}

std::string header_text(const std::vector<const PendingTensor*>& order,
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
  for (const auto* tensor : order) {
    uint64_t end = position + bytes_of(*tensor);
    text +=
        fmt::format(R"({}{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", separator(), quoted(tensor->name),
                    *dtype_to_safetensors(tensor->dtype), fmt::join(tensor->shape, ","), position, end);
    position = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data begins at a multiple of 8
  return text;
}

// The tensor, dense and on the CPU. Only one tensor at a time is copied, never a whole model.
Tensor made(const PendingTensor& pending) {
  auto tensor = pending.make().detach().cpu().resolve_conj().resolve_neg().contiguous();
  check(tensor.scalar_type() == pending.dtype && tensor.sizes() == at::IntArrayRef(pending.shape), ErrorKind::usage,
        "tensor \"{}\" was announced as {} {}, but is {} {}", pending.name, to_string(pending.dtype),
        c10::str(at::IntArrayRef(pending.shape)), to_string(tensor.scalar_type()), c10::str(tensor.sizes()));
  return tensor;
}

}  // namespace

void save_safetensors(const std::vector<PendingTensor>& tensors, std::map<std::string, std::string> metadata,
                      const std::filesystem::path& file, const std::string& hash_key,
                      const std::function<void(const std::filesystem::path&)>& check_written) {
  auto order = in_file_order(tensors);
  if (!hash_key.empty())
    metadata[hash_key] = std::string(Sha256::kDigits, '0');  // a placeholder: the hash is known only after the data
  std::string header = header_text(order, metadata);
  check(header.size() <= kMostHeader, ErrorKind::unsupported, "{}: its header would have {} bytes; readers accept {}",
        file.string(), header.size(), kMostHeader);

  AtomicFile out(file);
  uint64_t length = header.size();
  out.write(&length, sizeof length);
  out.write(header.data(), header.size());
  Sha256 hash;
  for (const auto* pending : order) {
    auto tensor = made(*pending);
    if (tensor.nbytes() == 0) continue;
    out.write(tensor.const_data_ptr(), tensor.nbytes());
    if (!hash_key.empty()) hash.add(tensor.const_data_ptr(), tensor.nbytes());
  }
  if (!hash_key.empty()) {
    auto entry = quoted(hash_key) + ":\"";  // no text inside quotes can contain this
    auto digits = hash.digits();
    out.overwrite(sizeof length + header.find(entry) + entry.size(), digits.data(), digits.size());
  }
  if (check_written) check_written(out.written());
  out.commit();
}

void save_safetensors(const StateDict& tensors, const std::filesystem::path& file) {
  public_call([&] {
    std::vector<PendingTensor> pending;
    for (const auto& [name, tensor] : tensors) {
      check(tensor.defined(), ErrorKind::usage, "tensor \"{}\" is undefined and cannot be saved", name);
      check(tensor.layout() == at::kStrided, ErrorKind::unsupported,
            "tensor \"{}\" is sparse; only dense tensors can be saved", name);
      pending.push_back({name, tensor.scalar_type(), tensor.sizes().vec(), [tensor] { return tensor; }});
    }
    save_safetensors(pending, tensors.metadata, file);
  });
}

}  // namespace lora
