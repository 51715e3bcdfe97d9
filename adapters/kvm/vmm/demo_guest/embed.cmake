# cmake -DIN=<file> -DOUT=<file.cc> -P embed.cmake: a file's bytes as a C++ array.
file(READ ${IN} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "((0x..,){20})" "\\1\n" bytes "${bytes}")
file(WRITE ${OUT} "#include \"adapters/kvm/vmm/demo_guest/image.hpp\"

namespace migrate::vmm::demo {
namespace {

constexpr unsigned char kBytes[] = {
${bytes}
};

}  // namespace

std::span<const unsigned char> image() { return kBytes; }

}  // namespace migrate::vmm::demo
")
