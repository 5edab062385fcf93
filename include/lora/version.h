#pragma once
// The library's version. This is the one place that states it: CMakeLists.txt reads the three numbers from here.
// A release may break callers' code when MINOR changes, as long as MAJOR is 0.

#define LORA_VERSION_MAJOR 0
#define LORA_VERSION_MINOR 1
#define LORA_VERSION_PATCH 0

// LORA_VERSION is a text: "0.1.0".
#define LORA_VERSION_JOIN(major, minor, patch) #major "." #minor "." #patch
#define LORA_VERSION_TEXT(major, minor, patch) LORA_VERSION_JOIN(major, minor, patch)
#define LORA_VERSION LORA_VERSION_TEXT(LORA_VERSION_MAJOR, LORA_VERSION_MINOR, LORA_VERSION_PATCH)

namespace lora {

// The version of the library that the program was linked with, as LORA_VERSION was when that library was compiled.
// Never throws. Threads: any number may call it at once.
const char* version() noexcept;

}  // namespace lora
