#pragma once
// Expecting an error of a call.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lora/error.h"

namespace lora {

// Expects that `call` throws an Error of this kind, whose message matches.
template <class Matcher, class Call>
void expect_error(ErrorKind kind, const Matcher& message, const Call& call) {
  try {
    call();
    FAIL() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_THAT(error.what(), message);
  }
}

}  // namespace lora
