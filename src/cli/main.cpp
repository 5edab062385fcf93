#include <cstdio>
int main() { std::puts("lora"); }
