#include <ATen/ATen.h>
#include <c10/util/strides.h>
#include <caffe2/serialize/inline_container.h>

#include <exception>

#include "core/check.h"
#include "io/atomic_file.h"
#include "io/dtype.h"
#include "io/public_call.h"
#include "lora/state_dict.h"

namespace lora {

namespace {

// A pickle of protocol 2: {name: _rebuild_tensor_v2(storage, 0, sizes, strides, False, OrderedDict())}.
class PickleWriter {
 public:
  std::string write(const StateDict& tensors) {
    text_ = "\x80\x02}(";
    size_t key = 0;
    for (const auto& [name, tensor] : tensors) {
      text(name);
      tensor_of(tensor, std::to_string(key++));
    }
    return text_ + "u.";
  }

 private:
  void tensor_of(const Tensor& tensor, const std::string& key) {
    global("torch._utils", "_rebuild_tensor_v2");
    text_ += "((";
    text("storage");
    global("torch", *dtype_to_storage(tensor.scalar_type()));
    text(key);
    text("cpu");
    integer(tensor.numel());
    text_ += "tQ";  // a tuple, and a reference to the storage it describes
    integer(0);
    integers(tensor.sizes());
    integers(c10::contiguous_strides(tensor.sizes()));
    text_ += '\x89';
    global("collections", "OrderedDict");
    text_ += ")RtR";
  }

  void global(std::string_view module, std::string_view name) { text_ += fmt::format("c{}\n{}\n", module, name); }

  void text(std::string_view value) {
    text_ += 'X';
    number(static_cast<uint32_t>(value.size()));
    text_ += value;
  }

  void integer(int64_t value) {
    bool small = value <= INT32_MAX;  // never negative
    text_ += small ? "J" : "\x8a\x08";
    if (small)
      number(static_cast<int32_t>(value));
    else
      number(value);
  }

  void integers(at::IntArrayRef values) {
    text_ += '(';
    for (int64_t value : values) integer(value);
    text_ += 't';
  }

  template <class T>
  void number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  std::string text_;
};

}  // namespace

void save_pickle(const StateDict& tensors, const std::filesystem::path& file) {
  public_call([&] {
    for (const auto& [name, tensor] : tensors) {
      check(tensor.defined(), ErrorKind::usage, "tensor \"{}\" is undefined and cannot be saved", name);
      check(tensor.layout() == at::kStrided, ErrorKind::unsupported,
            "tensor \"{}\" is sparse; only dense tensors can be saved", name);
      check(dtype_to_storage(tensor.scalar_type()).has_value(), ErrorKind::unsupported,
            "tensor \"{}\" has dtype {}, for which torch's pickles have no storage class; save it as safetensors", name,
            to_string(tensor.scalar_type()));
    }
    std::string pickle = PickleWriter().write(tensors);

    AtomicFile out(file);
    // The archive writer throws from its destructor after a failed write. So the sink does not tell it about failures:
    // it keeps the first one and drops the rest of the archive. The failure is thrown after the writer is destroyed.
    std::exception_ptr failure;
    auto sink = [&](const void* data, size_t size) {
      try {
        if (!failure) out.write(data, size);
      } catch (...) {
        failure = std::current_exception();
      }
      return size;
    };
    {
      caffe2::serialize::PyTorchStreamWriter archive(sink);
      archive.writeRecord("data.pkl", pickle.data(), pickle.size());
      archive.writeRecord("byteorder", "little", 6);
      size_t key = 0;
      for (const auto& [name, tensor] : tensors) {
        if (failure) break;
        Tensor dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous();
        archive.writeRecord(fmt::format("data/{}", key++), dense.const_data_ptr(), dense.nbytes());
      }
      archive.writeEndOfFile();
    }
    if (failure) std::rethrow_exception(failure);
    out.commit();
  });
}

}  // namespace lora
