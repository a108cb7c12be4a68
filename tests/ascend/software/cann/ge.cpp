// The three functions of ge:: (CANN's graph engine, libge_runner.so and libgraph.so) that run while MindSpore's libraries
// are loaded: graph/ascend_string.h and the errors' texts of ge/ge_api_error_codes.h. Built with the old std::string.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#define EXPORT __attribute__((visibility("default")))
namespace ge {
class StatusFactory {
 public:
  EXPORT static StatusFactory *Instance();
  std::map<uint32_t, std::string> texts;
  char room[256];  // more than CANN's has
};
StatusFactory *StatusFactory::Instance() { static StatusFactory factory; return &factory; }

class AscendString {
 public:
  EXPORT AscendString(const char *text);
  EXPORT const char *GetString() const;
  EXPORT bool operator<(const AscendString &other) const;
 private:
  std::shared_ptr<std::string> text_;
};
AscendString::AscendString(const char *text) { if (text) text_ = std::make_shared<std::string>(text); }
const char *AscendString::GetString() const { return text_ ? text_->c_str() : ""; }
bool AscendString::operator<(const AscendString &other) const { return std::string(GetString()) < other.GetString(); }
}  // namespace ge
