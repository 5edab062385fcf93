// A program of someone else's, against the installed package.
#include <lora/error.h>
#include <lora/state_dict.h>

#include <iostream>

int main() {
  const lora::StateDict tensors;
  std::cout << lora::to_string(lora::ErrorKind::bad_file) << " " << lora::to_string(lora::parse_dtype("bfloat16"))
            << " " << tensors.size() << "\n";
}
