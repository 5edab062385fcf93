#pragma once
// One value, or a list of them, where Python takes either.
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora {

// What converts to a T. A std::string_view counts as a string.
template <class U, class T>
concept MakesOne = std::convertible_to<U, T> ||
    (std::same_as<T, std::string>&& std::convertible_to<U, std::string_view>);

// An argument that is one T or several: "ink", {"ink", "neon"} or a std::vector<T>. The default is an empty list.
// Braces always mean a list: the constructors are templates, so that {"a", 3} never becomes one std::string.
// Threads: a value. Const calls on one object may run on several threads at once.
template <class T>
class OneOrMany {
 public:
  // One value inside braces.
  class Item {
   public:
    template <class U>
    requires(!std::same_as<std::remove_cvref_t<U>, Item> && MakesOne<U, T>) Item(U&& value)
        : value_(T(std::forward<U>(value))) {}

    const T& value() const { return value_; }

   private:
    T value_;
  };

  OneOrMany() = default;
  template <class U>
  requires(!std::same_as<std::remove_cvref_t<U>, OneOrMany> && !std::same_as<std::remove_cvref_t<U>, std::vector<T>> &&
           MakesOne<U, T>) OneOrMany(U&& one) {
    values_.emplace_back(std::forward<U>(one));
  }
  template <class U>
  requires std::same_as<std::remove_cvref_t<U>, std::vector<T>> OneOrMany(U&& many) : values_(std::forward<U>(many)) {}
  OneOrMany(std::initializer_list<Item> many) {
    values_.reserve(many.size());
    for (const auto& item : many) values_.push_back(item.value());
  }

  auto begin() const { return values_.begin(); }
  auto end() const { return values_.end(); }
  size_t size() const { return values_.size(); }
  bool empty() const { return values_.empty(); }
  const T& front() const { return values_.front(); }
  const T& operator[](size_t i) const { return values_[i]; }

  void push_back(T value) { values_.push_back(std::move(value)); }
  const std::vector<T>& values() const { return values_; }
  operator const std::vector<T>&() const { return values_; }

 private:
  std::vector<T> values_;
};

}  // namespace lora
