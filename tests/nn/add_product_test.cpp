#include "nn/add_product.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "support/compare.h"

namespace lora {

namespace {

Addend product_of(const Tensor& B, const Tensor& A) {
  return {.B = B.const_data_ptr<float>(), .A = A.const_data_ptr<float>(), .rank = A.size(0)};
}

Tensor product(const Tensor& from, const Tensor& B, const Tensor& A) {
  auto to = at::empty_like(from);
  add_product(from.scalar_type(), to.mutable_data_ptr(), from.const_data_ptr(), product_of(B, A), B.size(0), A.size(1));
  return to;
}

// Every 16-bit pattern, as numbers of that dtype, in rows of 16.
Tensor all_patterns(Dtype dtype) { return at::arange(65536, at::kInt).to(at::kShort).view(dtype).view({-1, 16}); }

}  // namespace

TEST(AddProduct, IsTheSumInDoubleForEverySize) {
  at::manual_seed(0);
  for (auto [rows, columns, rank] : {std::tuple{1, 1, 1}, {8, 32, 16}, {19, 53, 5}, {7, 320, 4}, {64, 31, 33}}) {
    auto B = at::randn({rows, rank}), A = at::randn({rank, columns});
    for (auto [dtype, tolerance] : {std::pair{at::kFloat, 1e-6}, {at::kBFloat16, 4e-3}, {at::kHalf, 5e-4}}) {
      auto from = at::randn({rows, columns}).to(dtype);
      expect_close(product(from, B, A), from.to(at::kDouble) + at::mm(B.to(at::kDouble), A.to(at::kDouble)), tolerance);
    }
  }
}

TEST(AddProduct, MeasuresTheChangeAndWhatTheRoundingLoses) {
  at::manual_seed(4);
  // Small matrices as a whole; the last one by a sample of its tiles.
  for (auto [rows, columns, rank, tolerance] : {std::tuple{1, 1, 1, 1e-5},
                                                {8, 32, 16, 1e-5},
                                                {19, 53, 5, 1e-5},
                                                {7, 320, 4, 1e-5},
                                                {300, 700, 4, 0.1},
                                                {1280, 72, 3, 1e-5}})
    for (auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      SCOPED_TRACE(fmt::format("{} {} {}", rows, columns, to_string(dtype)));
      auto B = at::randn({rows, rank}) * 0.01, A = at::randn({rank, columns}),
           from = at::randn({rows, columns}).to(dtype);
      auto to = at::empty_like(from), of_matrix = at::empty_like(from);
      ChangeSums sums, sums_of_matrix;
      EXPECT_TRUE(
          add_product(dtype, to.mutable_data_ptr(), from.const_data_ptr(), product_of(B, A), rows, columns, &sums));
      EXPECT_TRUE(same_bits(to, product(from, B, A)));
      const auto matrix = product(at::zeros({rows, columns}), B, A);  // the change as float32 sums it
      auto W = from.to(at::kDouble), delta = matrix.to(at::kDouble);
      expect_close(delta, at::mm(B.to(at::kDouble), A.to(at::kDouble)), 1e-6);
      EXPECT_TRUE(add_product(dtype, of_matrix.mutable_data_ptr(), from.const_data_ptr(),
                              {.matrix = matrix.const_data_ptr<float>()}, rows, columns, &sums_of_matrix));
      EXPECT_TRUE(same_bits(of_matrix, to));
      auto squares = [](const Tensor& t) { return t.square().sum().item<double>(); };
      auto lost = squares(to.to(at::kDouble) - W - delta);
      for (const auto& measured : {sums, sums_of_matrix}) {
        EXPECT_NEAR(measured.base, squares(W), tolerance * squares(W));
        EXPECT_NEAR(measured.change, squares(delta), (tolerance + 1e-4) * squares(delta));
        EXPECT_NEAR(measured.lost, lost, (tolerance + 1e-3) * lost);
        EXPECT_NEAR(measured.loss(), std::sqrt(lost / squares(delta)),
                    (tolerance / 3 + 1e-3) * std::sqrt(lost / squares(delta)));
        EXPECT_EQ(measured.not_finite, 0);
        EXPECT_TRUE(measured.changed);
      }
    }
}

// From changes whose squares are 0 in float32 to changes whose squares are infinite in float32.
TEST(AddProduct, MeasuresAChangeOfAnySize) {
  at::manual_seed(6);
  for (double size : {1e-37, 1e-25, 1e-12, 1.0, 1e12, 1e25, 1e37})
    for (auto [rows, columns] : {std::pair{5, 7}, {300, 700}})
      for (auto dtype : {at::kFloat, at::kBFloat16}) {
        SCOPED_TRACE(fmt::format("{} {} {}", size, rows, to_string(dtype)));
        auto B = at::ones({rows, 1}) * size, A = at::rand({1, columns}) + 0.5, from = at::ones({rows, columns}, dtype);
        auto to = at::empty_like(from);
        ChangeSums sums;
        EXPECT_TRUE(
            add_product(dtype, to.mutable_data_ptr(), from.const_data_ptr(), product_of(B, A), rows, columns, &sums));
        const auto delta = at::mm(B.to(at::kDouble), A.to(at::kDouble));
        EXPECT_NEAR(std::sqrt(sums.change) / delta.norm().item<double>(), 1, 0.02);
        EXPECT_EQ(sums.changed, size > 1e-9);
        if (size < 1e-9) {
          EXPECT_EQ(sums.loss(), 1);
          EXPECT_EQ(sums.lost, sums.change);
        } else {
          EXPECT_LT(sums.loss(), dtype == at::kFloat ? 2e-7 : 0.01);
        }
      }
}

TEST(AddProduct, SaysWhetherAResultIsNotFinite) {
  for (auto [rows, columns] : {std::pair{5, 7}, {16, 48}, {300, 700}})
    for (auto [dtype, largest] : {std::pair{at::kHalf, 65519.f}, {at::kBFloat16, 3.38e38f}, {at::kFloat, 3.4e38f}})
      for (auto number : {largest, largest * 1.1f, std::numeric_limits<float>::quiet_NaN()}) {
        auto B = at::zeros({rows, 1}), A = at::ones({1, columns}), from = at::zeros({rows, columns}, dtype);
        auto to = at::empty_like(from);
        B[rows - 1] = number;
        bool finite = number == largest;
        ChangeSums sums;
        EXPECT_EQ(
            add_product(dtype, to.mutable_data_ptr(), from.const_data_ptr(), product_of(B, A), rows, columns, &sums),
            finite)
            << to_string(dtype) << " " << number;
        EXPECT_EQ(at::isfinite(to).all().item<bool>(), finite);
      }
}

TEST(AddProduct, WritesInPlace) {
  auto from = at::randn({10, 40}), B = at::randn({10, 3}), A = at::randn({3, 40});
  auto wanted = product(from, B, A);
  add_product(at::kFloat, from.mutable_data_ptr(), from.const_data_ptr(), product_of(B, A), 10, 40);
  EXPECT_TRUE(same_bits(from, wanted));
}

TEST(AddProduct, KeepsEveryHalfNumberToWhichNothingIsAdded) {
  for (auto dtype : {at::kHalf, at::kBFloat16}) {
    auto from = all_patterns(dtype);
    auto to = product(from, at::zeros({from.size(0), 1}), at::zeros({1, 16}));
    auto nan = at::isnan(from);
    EXPECT_TRUE(at::equal(at::isnan(to), nan));
    EXPECT_TRUE(at::equal(to.masked_fill(nan, 0), from.masked_fill(nan, 0)));
  }
}

TEST(AddProduct, RoundsHalvesAsTorchDoes) {
  at::manual_seed(1);
  // Around every magnitude, denormal and too large ones among them, and on the ties between neighbours.
  auto sums = at::randn({4096, 16}) * at::pow(2.0, at::randint(-28, 20, {4096, 1}));
  auto ties = (sums.view(at::kInt).bitwise_and(~0xFFF)).view(at::kFloat);
  for (auto dtype : {at::kHalf, at::kBFloat16})
    for (const auto& A : {sums, ties})
      for (int64_t i = 0; i < A.size(0); i += 64) {
        auto rows = A.slice(0, i, i + 64).contiguous();
        auto got = product(at::zeros({64, 16}, dtype), at::eye(64), rows);
        EXPECT_TRUE(at::equal(got, rows.to(dtype)));
      }
}

}  // namespace lora
