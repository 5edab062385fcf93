// LoRAs from repositories on the Hub: which file, what is asked for, what is said.
#include <gmock/gmock.h>

#include "checkpoints/repository.h"
#include "hub/stub.h"
#include "loaders/behaviour.h"
#include "loaders/locate_lora.h"
#include "lora/lora_file.h"

namespace lora {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

// ---- The choice -----------------------------------------------------------------------------------------------------

TEST(LoraChoice, SafetensorsBeforePicklesUnlessAskedForAndLeftoversNever) {
  Names names{"z.bin", "optimizer.bin", "b.safetensors", "README.md", "scheduler.pt", "deep/a.safetensors"};
  EXPECT_EQ(choose_lora(names, {}, "here").file, "b.safetensors");
  EXPECT_EQ(choose_lora(names, false, "here").file, "z.bin");
  EXPECT_EQ(choose_lora({"z.bin"}, {}, "here").file, "z.bin");
  EXPECT_THAT(error_of(ErrorKind::not_found, [] { choose_lora({"z.bin"}, true, "here"); }),
              StartsWith("here: no LoRA file in this folder; there are: z.bin"));
  EXPECT_THAT(error_of(ErrorKind::not_found, [] { choose_lora({}, {}, "here"); }), HasSubstr("no files"));
}

TEST(LoraChoice, DiffusersNameComesFirstAndOthersAreNoted) {
  EXPECT_EQ(choose_lora({"a.safetensors", "pytorch_lora_weights.safetensors"}, {}, "here").file,
            "pytorch_lora_weights.safetensors");
  auto choice = choose_lora({"b.safetensors", "a.safetensors"}, {}, "here");
  EXPECT_EQ(choice.file, "a.safetensors");
  EXPECT_THAT(choice.notes, ElementsAre("here holds 2 files that may be LoRAs; a.safetensors was taken, weight_name "
                                        "chooses another of: a.safetensors, b.safetensors"));
}

TEST(LoraChoice, PeftsFoldersWhereNoFileIsBesideThem) {
  Names folders{"unet/adapter_config.json", "unet/adapter_model.safetensors", "text_encoder/adapter_config.json",
                "vae/adapter_config.json"};
  auto choice = choose_lora(folders, {}, "here");
  EXPECT_EQ(choice.file, "");
  EXPECT_THAT(choice.components, ElementsAre("unet", "text_encoder"));
  folders.push_back("a.bin");
  EXPECT_EQ(choose_lora(folders, {}, "here").file, "a.bin");
}

TEST(LoraChoice, WhatIsARepository) {
  for (auto text : {"owner/name", "owner/name-v1.5", "some_one/x"}) EXPECT_TRUE(is_repository(text)) << text;
  for (auto text : {"owner/name.safetensors", "owner/name.ckpt", "owner/name.gguf", "name", "owner/name/", "./name",
                    "/owner/name", "a/b/c", "../name", "owner/na me", ""})
    EXPECT_FALSE(is_repository(text)) << text;
}

// ---- Loads ----------------------------------------------------------------------------------------------------------

class HubSource : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    stub_ = new HubStub;
    add("owner/kohya", "style.safetensors", kKohya);
    add("owner/kohya", "style.safetensors", kUnetOnly, "v1");
    add("owner/kohya", "sub/other.safetensors", kTextOnly);
    add("owner/peft", "adapter_model.safetensors", TinyPipeline::file("peft_folder") / "adapter_model.safetensors");
    add("owner/peft", "adapter_config.json", TinyPipeline::file("peft_folder") / "adapter_config.json");
    add("owner/several", "b.safetensors", kUnetOnly);
    add("owner/several", "a.safetensors", kKohya);
    add("owner/several", "optimizer.bin", kKohya);
    stub().write("owner/nothing", "README.md", "nothing here");
    add("owner/secret", "style.safetensors", kKohya);
    stub().restrict("owner/secret", {{"private", true}, {"token", "hf_x"}});
  }
  static void TearDownTestSuite() {
    delete stub_;
    stub_ = nullptr;
  }
  void SetUp() override { stub().reset(); }

  static HubStub& stub() { return *stub_; }
  static void add(const std::string& repo_id, const std::string& name, const fs::path& file,
                  const std::string& revision = "main") {
    auto to = stub().folder(repo_id, revision) / name;
    fs::create_directories(to.parent_path());
    fs::copy_file(file, to);
  }
  // The names of the files whose bytes were asked for.
  static std::set<std::string> fetched() {
    std::set<std::string> names;
    for (const auto& request : stub().requests())
      if (auto at = request.find("/resolve/"); at != request.npos)
        names.insert(request.substr(request.find('/', at + std::strlen("/resolve/")) + 1));
    return names;
  }
  static Outputs outputs_of(const LoraSource& source, const LoadLoraOptions& options = {}) {
    TinyPipeline pipe;
    pipe.load_lora_weights(source, options);
    return run(pipe);
  }
  static LoadReport report_of(const LoraSource& source, const LoadLoraOptions& options = {}) {
    TinyPipeline pipe;
    return pipe.load_lora_weights(source, options);
  }
  static std::string refused(ErrorKind kind, const LoraSource& source, const LoadLoraOptions& options = {}) {
    TinyPipeline pipe;
    auto message = error_of(kind, [&] { pipe.load_lora_weights(source, options); });
    EXPECT_TRUE(pipe.get_list_adapters().empty());
    return message;
  }

  HubHome home_{stub().endpoint()};

 private:
  static inline HubStub* stub_ = nullptr;
};

TEST_F(HubSource, OneFileIsTakenAndNamed) {
  expect_same(outputs_of("owner/kohya"), outputs_of(kKohya));
  EXPECT_THAT(fetched(), ElementsAre("style.safetensors"));
  auto report = report_of("owner/kohya");
  EXPECT_THAT(report.source, testing::MatchesRegex("owner/kohya@[0-9a-f]{7}: style.safetensors"));
  EXPECT_EQ(report.dialect, "kohya");
  EXPECT_EQ(report.adapter_name, "default_0");
  EXPECT_THAT(report.notes, IsEmpty());
}

TEST_F(HubSource, ArgumentsForTheHubAreNotNotedAsUnused) {
  HubOptions hub{.token = "hf_x", .revision = "main", .progress = [](const HubProgress&) { return true; }};
  EXPECT_THAT(report_of("owner/secret", {.hub = hub}).notes, IsEmpty());
  EXPECT_THAT(report_of(kKohya, {.hub = {.progress = hub.progress}}).notes, IsEmpty());
  EXPECT_THAT(report_of(kKohya, {.hub = hub}).notes, ElementsAre(StartsWith("token, revision had no effect")));
}

TEST_F(HubSource, PeftsConfigComesAlong) {
  expect_same(outputs_of("owner/peft"), outputs_of(TinyPipeline::file("peft_folder")));
  EXPECT_THAT(fetched(), ElementsAre("adapter_config.json", "adapter_model.safetensors"));
}

TEST_F(HubSource, PeftsFolderForEachComponent) {
  for (auto [component, leaf, alpha] : {std::tuple{"unet", "to_q", 3}, {"text_encoder", "q_proj", 6}}) {
    StateDict peft;
    for (const auto& [key, tensor] : random_lora(component, {.r = 2, .target_modules = {leaf}}))
      if (!key.ends_with(".alpha")) peft.set("base_model.model." + key.substr(key.find('.') + 1), tensor);
    auto config = json{{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", alpha}}.dump();
    stub().write("owner/parts", std::string("run/") + component + "/adapter_config.json", config);
    save_safetensors(peft, stub().folder("owner/parts") / "run" / component / "adapter_model.safetensors");
    stub().write("owner/parts", std::string("run/") + component + "/optimizer.bin", "no");
  }
  LoadLoraOptions options{.subfolder = "run"};
  expect_same(outputs_of("owner/parts", options), outputs_of(stub().folder("owner/parts") / "run"));
  EXPECT_THAT(fetched(),
              ElementsAre("run/text_encoder/adapter_config.json", "run/text_encoder/adapter_model.safetensors",
                          "run/unet/adapter_config.json", "run/unet/adapter_model.safetensors"));
  EXPECT_EQ(report_of("owner/parts", options).components.size(), 2u);
}

TEST_F(HubSource, OneOfSeveralIsTakenWithANote) {
  auto report = report_of("owner/several");
  EXPECT_THAT(report.source, HasSubstr(": a.safetensors"));
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_THAT(report.notes[0], StartsWith("owner/several@"));
  EXPECT_THAT(report.notes[0], HasSubstr("weight_name chooses another of: a.safetensors, b.safetensors"));
  EXPECT_THAT(fetched(), ElementsAre("a.safetensors"));
  report = report_of("owner/several", {.weight_name = "b.safetensors"});
  EXPECT_THAT(report.source, HasSubstr(": b.safetensors"));
  EXPECT_THAT(report.notes, IsEmpty());
}

TEST_F(HubSource, SubfoldersAndFilesByName) {
  auto wanted = outputs_of(kTextOnly);
  expect_same(outputs_of("owner/kohya", {.subfolder = "sub"}), wanted);
  expect_same(outputs_of("owner/kohya", {.subfolder = "sub", .weight_name = "other.safetensors"}), wanted);
  expect_same(outputs_of("owner/kohya", {.weight_name = "sub/other.safetensors"}), wanted);
  EXPECT_THAT(fetched(), ElementsAre("sub/other.safetensors"));
  // As beside a folder on disk, the file may lie above the subfolder.
  expect_same(outputs_of("owner/kohya", {.subfolder = "sub", .weight_name = "style.safetensors"}), outputs_of(kKohya));
}

TEST_F(HubSource, RevisionsAreOthers) {
  auto report = report_of("owner/kohya", {.hub = {.revision = "v1"}});
  EXPECT_EQ(report.components.size(), 1u);
  expect_same(outputs_of("owner/kohya", {.hub = {.revision = "v1"}}), outputs_of(kUnetOnly));
}

TEST_F(HubSource, EveryReadTakesARepository) {
  TinyPipeline pipe;
  EXPECT_EQ(pipe.match_lora("owner/kohya").components.size(), 2u);
  EXPECT_TRUE(pipe.get_list_adapters().empty());
  auto lora = read_lora("owner/kohya", {.hub = {.revision = "v1"}});
  EXPECT_THAT(lora.source, HasSubstr(": style.safetensors"));
  EXPECT_EQ(lora.path.filename(), "style.safetensors");
  EXPECT_EQ(pipe.lora_state_dict("owner/kohya", {.hub = {.revision = "v1"}}).state_dict.size(),
            pipe.lora_state_dict(kUnetOnly).state_dict.size());
}

// ---- The cache ------------------------------------------------------------------------------------------------------

TEST_F(HubSource, WhatIsCachedTakesOneRequestAndACommitNone) {
  auto wanted = outputs_of("owner/kohya");
  stub().reset();
  TinyPipeline pipe;
  auto path = read_lora("owner/kohya").path;
  EXPECT_THAT(stub().requests(), ElementsAre("GET /api/models/owner/kohya/revision/main"));
  stub().reset();
  expect_same(outputs_of("owner/kohya", {.hub = {.revision = path.parent_path().filename()}}), wanted);
  EXPECT_THAT(stub().requests(), IsEmpty());
}

TEST_F(HubSource, OfflineTheCacheIsEnough) {
  auto wanted = outputs_of("owner/kohya");
  stub().reset();
  expect_same(outputs_of("owner/kohya", {.hub = {.local_files_only = true}}), wanted);
  Environment offline("HF_HUB_OFFLINE", "1");
  expect_same(outputs_of("owner/kohya"), wanted);
  EXPECT_THAT(report_of("owner/kohya").notes, IsEmpty());
  EXPECT_THAT(refused(ErrorKind::not_found, "owner/several"), HasSubstr("not in the cache"));
  EXPECT_THAT(stub().requests(), IsEmpty());
}

TEST_F(HubSource, OfflineTheChoiceIsAmongWhatTheCacheHas) {
  hf_hub_download("owner/several", "b.safetensors");
  Environment offline("HF_HUB_OFFLINE", "1");
  EXPECT_THAT(report_of("owner/several").source, HasSubstr(": b.safetensors"));
}

TEST_F(HubSource, AnUnreachableHubIsNoted) {
  auto wanted = outputs_of("owner/kohya");
  stub().rules({{{"do", {{"status", 503}}}}});
  expect_same(outputs_of("owner/kohya"), wanted);
  auto report = report_of("owner/kohya");
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_THAT(report.notes[0], StartsWith("the Hub could not be asked ("));
  EXPECT_THAT(report.notes[0], HasSubstr("; what the cache has of commit "));
}

// ---- What is said ---------------------------------------------------------------------------------------------------

TEST_F(HubSource, WhatIsNowhereIsSaidToBeNeitherHereNorThere) {
  auto message = refused(ErrorKind::not_found, "owner/no-such-repository");
  EXPECT_THAT(message, StartsWith("owner/no-such-repository: there is no such file or folder here"));
  EXPECT_THAT(message, HasSubstr("the Hub has no such repository"));
  EXPECT_THAT(message, HasSubstr("a path can be written \"./owner/no-such-repository\""));
  EXPECT_THAT(refused(ErrorKind::not_found, "owner/kohya", {.hub = {.revision = "v9"}}), HasSubstr("v9"));
  EXPECT_THAT(refused(ErrorKind::not_found, "owner/kohya", {.weight_name = "styel.safetensors"}),
              HasSubstr("did you mean \"style.safetensors\"?"));
  EXPECT_THAT(refused(ErrorKind::not_found, "owner/kohya", {.subfolder = "deep"}),
              HasSubstr("there is no folder \"deep\" in it; there are: "));
  EXPECT_THAT(refused(ErrorKind::not_found, "owner/nothing"),
              HasSubstr("no LoRA file in this folder; there are: README.md"));
  EXPECT_THAT(refused(ErrorKind::not_found, "owner/kohya", {.use_safetensors = false}), HasSubstr("no LoRA file"));
}

TEST_F(HubSource, MistypedPathsAskNobody) {
  for (auto text : {"loras/styel.safetensors", "loras/style.bin", "loras/style.pt", "style", "./loras/style",
                    "/loras/style", "loras/deep/style"}) {
    auto message = refused(ErrorKind::not_found, text);
    EXPECT_THAT(message, StartsWith(std::string(text) + ": there is no such file or folder; "));
    EXPECT_THAT(message, HasSubstr("a repository on the Hub is \"owner/name\""));
  }
  EXPECT_THAT(stub().requests(), IsEmpty());
}

TEST_F(HubSource, WhatIsHereComesBeforeARepository) {
  TemporaryFolder folder;
  fs::create_directories(folder / "owner/kohya");
  fs::copy_file(kTextOnly, folder / "owner/kohya/here.safetensors");
  auto back = fs::current_path();
  fs::current_path(folder.path());
  auto report = report_of("owner/kohya");
  fs::current_path(back);
  EXPECT_EQ(report.source, "owner/kohya/here.safetensors");
  EXPECT_THAT(stub().requests(), IsEmpty());
}

TEST_F(HubSource, WhatASourceIsCanBeSaidOutright) {
  auto wanted = outputs_of(LoraSource::repository("owner/kohya"));
  expect_same(wanted, outputs_of(kKohya));
  TemporaryFolder folder;
  fs::create_directories(folder / "owner/kohya");
  fs::copy_file(kTextOnly, folder / "owner/kohya/here.safetensors");
  auto back = fs::current_path();
  fs::current_path(folder.path());
  stub().reset();
  auto here = report_of(LoraSource::file("owner/kohya"));
  auto mistyped = refused(ErrorKind::not_found, "owner/khoya");
  auto no_file = refused(ErrorKind::not_found, LoraSource::file("other/kohya"));
  EXPECT_THAT(stub().requests(), IsEmpty());
  auto there = outputs_of(LoraSource::repository("owner/kohya"));
  auto not_there = refused(ErrorKind::not_found, LoraSource::repository("owner/khoya"));
  fs::current_path(back);
  EXPECT_EQ(here.source, "owner/kohya/here.safetensors");
  expect_same(there, wanted);
  EXPECT_THAT(mistyped, StartsWith("owner/khoya: there is no such file or folder; the Hub was not asked, because the "
                                   "folder \"owner\" is here"));
  EXPECT_THAT(mistyped, HasSubstr("LoraSource::repository(\"owner/khoya\")"));
  EXPECT_THAT(no_file, StartsWith("other/kohya: there is no such file or folder"));
  EXPECT_THAT(not_there, StartsWith("owner/khoya: as a repository on the Hub: "));
}

}  // namespace lora
