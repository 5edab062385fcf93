// A program of someone else's, against the installed package.
#include <lora/error.h>
#include <lora/files.h>
#include <lora/hub.h>
#include <lora/state_dict.h>
#include <lora/version.h>

#include <iostream>
#include <string>

int main() {
  const lora::StateDict tensors;
  std::cout << lora::to_string(lora::ErrorKind::bad_file) << " " << lora::to_string(lora::parse_dtype("bfloat16"))
            << " " << tensors.size() << "\n";
  try {
    lora::hf_hub_download("owner/name", "config.json", {.cache_dir = "none", .local_files_only = true});
  } catch (const lora::Error& error) {
    std::cout << lora::to_string(error.kind()) << "\n";
  }
  try {
    lora::inspect_lora(tensors);
  } catch (const lora::Error& error) {
    std::cout << lora::to_string(error.kind()) << "\n";
  }
  if (lora::version() == std::string(LORA_VERSION)) std::cout << LORA_VERSION << "\n";
}
