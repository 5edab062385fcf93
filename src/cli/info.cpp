#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "infotext.h"
#include "lora/image.h"
#include "lora/text.h"
#include "output.h"
#include "picture_text.h"
#include "verbs.h"

namespace lora::cli {

namespace {

using json = nlohmann::ordered_json;

struct Arguments {
  std::vector<std::string> pictures;
  bool json = false;
};

json object_in(const std::map<std::string, std::string>& texts, const char* keyword) {
  const auto found = texts.find(keyword);
  return found == texts.end() ? json() : json_object(found->second);
}

// The values of ComfyUI's nodes, by their kinds and numbers. An input from another node is left out.
json nodes_of(const json& graph) {
  auto nodes = json::object();
  for (const auto& [number, node] : graph.items()) {
    if (!node.is_object() || !node.contains("inputs") || !node["inputs"].is_object()) continue;
    const auto kind = node.value("class_type", json());
    if (!kind.is_string()) continue;
    auto values = json::object();
    for (const auto& [name, value] : node["inputs"].items())
      if (value.is_primitive()) values[name] = value;
    if (!values.empty()) nodes[fmt::format("{} {}", kind.get<std::string>(), number)] = values;
  }
  return nodes;
}

// What a picture says, by the program that says it.
json information(const std::string& file, const Image& image) {
  json all{{"file", valid_utf8(file)}, {"width", image.width}, {"height", image.height}};
  all["transparent"] = !image.alpha.empty();
  auto rest = image.text;
  if (const auto own = object_in(image.text, kOwnText); own.is_object()) {
    all["lora.cpp"] = own;
    rest.erase(kOwnText);
    rest.erase(kSeedText);
  }
  if (const auto found = image.text.find(kA1111Text); found != image.text.end()) {
    if (const auto text = read_infotext(found->second)) {
      json fields{{"prompt", text->prompt}, {"negative_prompt", text->negative}};
      for (const auto& [name, value] : text->fields) fields[name] = value;
      all["a1111"] = fields;
      rest.erase(kA1111Text);
    }
  }
  if (const auto graph = object_in(image.text, kComfyText); graph.is_object()) {
    all["comfyui"] = nodes_of(graph);
    rest.erase(kComfyText);
    rest.erase("workflow");  // the same nodes, with their places on the screen
  }
  all["texts"] = rest;
  return all;
}

// A value as a line of a report.
std::string words(const json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

void print_fields(const json& fields, const std::string& indent);

// A value with its name. The objects of a list have numbers as names.
void print_field(const std::string& name, const json& value, const std::string& indent) {
  const bool is_list = value.is_array() && !value.empty() && value.front().is_object();
  if (!is_list && (!value.is_object() || value.empty())) {
    print(indent + printable(name) + ": " + printable(words(value)));
    return;
  }
  print(indent + printable(name) + ":");
  if (!is_list) return print_fields(value, indent + "  ");
  for (size_t i = 0; i < value.size(); ++i) print_field(std::to_string(i + 1), value[i], indent + "  ");
}

void print_fields(const json& fields, const std::string& indent) {
  for (const auto& [name, value] : fields.items()) print_field(name, value, indent);
}

void print_information(const json& all) {
  print(fmt::format("{}: {} x {} pixels{}", printable(all["file"].get<std::string>()), all["width"].dump(),
                    all["height"].dump(), all["transparent"] == true ? ", in part transparent" : ""));
  bool says = false;
  auto section = [&](const char* key, const char* title) {
    if (!all.contains(key) || all[key].empty()) return;
    says = true;
    print(fmt::format("  {}:", title));
    print_fields(all[key], "    ");
  };
  section("lora.cpp", "drawn by lora.cpp");
  section("a1111", "A1111's text");
  section("comfyui", "ComfyUI's nodes");
  section("texts", "other texts");
  if (!says) print("  It says nothing of how it was drawn.");
}

void run(const Arguments& a) {
  auto list = json::array();
  for (const auto& file : a.pictures) list.push_back(information(file, Image::load(file)));
  if (a.json)
    print_json(list);
  else
    for (const auto& each : list) print_information(each);
}

}  // namespace

void declare_info(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("info", "Prints what pictures say of how they were drawn");
  command->add_option("PICTURE", a->pictures, "PNG, JPEG or WebP files, of lora.cpp, A1111 or ComfyUI")->required();
  command->add_flag("--json", a->json, "Prints JSON: a list of objects");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
