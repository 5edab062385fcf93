// A program of someone else's, against the installed package.
#include <lora/error.h>
#include <lora/hub.h>
#include <lora/state_dict.h>

#include <iostream>

int main() {
  const lora::StateDict tensors;
  std::cout << lora::to_string(lora::ErrorKind::bad_file) << " " << lora::to_string(lora::parse_dtype("bfloat16"))
            << " " << tensors.size() << "\n";
  try {
    lora::hf_hub_download("owner/name", "config.json", {.cache_dir = "none", .local_files_only = true});
  } catch (const lora::Error& error) {
    std::cout << lora::to_string(error.kind()) << "\n";
  }
}
