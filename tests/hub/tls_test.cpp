// Downloads over TLS, with the test's own certificate.
#include "hub/hub_test.h"

namespace lora {

class Tls : public HubTest {
 protected:
  static void SetUpTestSuite() {
    HubTest::SetUpTestSuite();
    folder_ = new TemporaryFolder;
    auto command =
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout " +
        key() + " -out " + certificate() + " 2>/dev/null";
    ASSERT_EQ(std::system(command.c_str()), 0);
    secure_ = new HubStub(certificate(), key());
    fill(*secure_);
  }
  static void TearDownTestSuite() {
    delete secure_;
    delete folder_;
    HubTest::TearDownTestSuite();
  }
  static std::string certificate() { return (*folder_ / "certificate.pem").string(); }
  static std::string key() { return (*folder_ / "key.pem").string(); }

  static inline TemporaryFolder* folder_ = nullptr;
  static inline HubStub* secure_ = nullptr;
  HubHome home_{secure_->endpoint()};
};

TEST_F(Tls, WithItsCertificateTrusted) {
  for (const char* variable : {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}) {
    Environment trust(variable, certificate());
    auto folder = snapshot_download("owner/name", {}, {.force_download = true, .token = "hf_given"});
    EXPECT_EQ(bytes_of(folder / "unet/model.safetensors"), kWeights);
  }
  for (const auto& request : secure_->log())
    EXPECT_EQ(request["headers"].contains("authorization"), request["server"] == "hub");
}

TEST_F(Tls, WithoutItNothingIsSent) {
  EXPECT_ERROR(ErrorKind::network, "the certificate of localhost is not trusted",
               hf_hub_download("owner/name", "config.json", {.token = "hf_given"}));
  Environment wrong("SSL_CERT_FILE", "/no/such/file");
  EXPECT_ERROR(ErrorKind::not_found, "SSL_CERT_FILE", hf_hub_download("owner/name", "config.json"));
}

TEST_F(Tls, RedirectsDoNotLeaveIt) {
  Environment trust("SSL_CERT_FILE", certificate());
  secure_->rules(
      {{{"method", "GET"}, {"do", {{"redirect", stub().endpoint() + "/owner/name/resolve/main/config.json"}}}}});
  EXPECT_ERROR(ErrorKind::bad_file, "not safe to follow", hf_hub_download("owner/name", "config.json"));
  EXPECT_THAT(stub().log(), IsEmpty());
  secure_->reset();
}

TEST_F(Tls, ThroughAProxyThatSeesNothing) {
  Environment trust("SSL_CERT_FILE", certificate()), proxy("HTTPS_PROXY", secure_->proxy());
  hf_hub_download("owner/name", "config.json", {.token = "hf_given"});
  auto seen = secure_->requests("proxy");
  ASSERT_FALSE(seen.empty());
  for (const auto& request : seen) EXPECT_THAT(request, testing::StartsWith("CONNECT localhost:"));
  for (const auto& request : secure_->log())
    EXPECT_FALSE(request["server"] == "proxy" && request["headers"].contains("authorization"));
}

}  // namespace lora
